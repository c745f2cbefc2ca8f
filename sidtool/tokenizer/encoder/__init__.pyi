from .lexical import LEXICAL as LEXICAL
from .model import TextEncoder as TextEncoder
from .model import check_model as check_model
from .model import encoder_digests as encoder_digests
from .model import load_encoder as load_encoder
from .settings import Encoder as Encoder
