from .loaded import LoadedEncoder as LoadedEncoder
from .loaded import encoder_digests as encoder_digests
from .loaded import load_encoder as load_encoder
from .model import check_location as check_location
from .settings import Encoder as Encoder
