from .lexical import LEXICAL as LEXICAL
from .lexical import LexicalEncoder as LexicalEncoder
from .loaded import TextEncoder as TextEncoder
from .loaded import encoder_digests as encoder_digests
from .loaded import load_encoder as load_encoder
from .model import check_model as check_model
from .settings import Encoder as Encoder
