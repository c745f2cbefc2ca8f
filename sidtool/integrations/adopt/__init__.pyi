from .adopt_options import AdoptOptions as AdoptOptions
from .adoption import adopt as adopt
from .adoption import check_adoption as check_adoption
from .report import Adoption as Adoption
