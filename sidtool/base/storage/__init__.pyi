from .conditional import Snapshot as Snapshot
from .storage import Storage as Storage
from .storage import package as package
from .zips import BoundedReader as BoundedReader
from .zips import is_zip as is_zip
from .zips import write_zip as write_zip
