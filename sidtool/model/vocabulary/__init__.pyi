from .tokenizer import check_token_ids as check_token_ids
from .tokens import NO_TOKEN as NO_TOKEN
from .tokens import TIMES as TIMES
from .tokens import FieldTokens as FieldTokens
from .tokens import FieldValues as FieldValues
from .tokens import SidTokens as SidTokens
from .tokens import UserTokens as UserTokens
from .tokens import sid_token_indexes as sid_token_indexes
