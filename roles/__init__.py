"""The built-in roles, one a file, each written on the public API alone. Copy one to write your own."""

from aloe_agents.roles.candidate import Candidate
from aloe_agents.roles.generator import Generator
from aloe_agents.roles.induction import Induction
from aloe_agents.roles.judge import Judge
from aloe_agents.roles.preferred import Preferred
from aloe_agents.roles.rejected import Rejected
from aloe_agents.roles.role_player import RolePlayer
from aloe_agents.roles.speaker import Speaker

__all__ = ["Candidate", "Generator", "Induction", "Judge", "Preferred", "Rejected", "RolePlayer", "Speaker"]
