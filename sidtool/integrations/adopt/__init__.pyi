from .adoption import Adoption as Adoption
from .adoption import adopt as adopt
from .adoption import check_adoption as check_adoption
from .prompts import AdoptOptions as AdoptOptions
