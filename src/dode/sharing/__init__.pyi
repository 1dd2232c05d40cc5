from .folder import save_folder as save_folder
from .hub import push_to_hub as push_to_hub
