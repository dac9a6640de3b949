"""The schema as SQLAlchemy tables: what is studied, the runs, and their numbers.

Tables are dumb; queries live in `reader` and `compare`, the views for people in `views`. A change
here needs a revision in `migrations/versions`; a test holds the two together. The types are those
that SQLite's STRICT tables and PostgreSQL share: integers, doubles and text. Times are ISO-8601
text in UTC, which sorts by time; yes and no are 1 and 0.
"""

from mlux.store.tables.base import Base as Base
from mlux.store.tables.claims import Claim as Claim
from mlux.store.tables.claims import ClaimRun as ClaimRun
from mlux.store.tables.results import Artifact as Artifact
from mlux.store.tables.results import Generation as Generation
from mlux.store.tables.results import LayerResult as LayerResult
from mlux.store.tables.results import TokenPrediction as TokenPrediction
from mlux.store.tables.results import TrialToken as TrialToken
from mlux.store.tables.runs import Run as Run
from mlux.store.tables.runs import RunEvent as RunEvent
from mlux.store.tables.runs import RunMetric as RunMetric
from mlux.store.tables.runs import RunParam as RunParam
from mlux.store.tables.runs import RunTag as RunTag
from mlux.store.tables.runs import RunVersion as RunVersion
from mlux.store.tables.runs import RunWorker as RunWorker
from mlux.store.tables.runs import Trial as Trial
from mlux.store.tables.studied import Condition as Condition
from mlux.store.tables.studied import ConditionValue as ConditionValue
from mlux.store.tables.studied import Experiment as Experiment
from mlux.store.tables.studied import Metric as Metric
from mlux.store.tables.studied import Model as Model
from mlux.store.tables.studied import ModelCheck as ModelCheck
from mlux.store.tables.studied import Prompt as Prompt
from mlux.store.tables.studied import PromptSet as PromptSet
from mlux.store.tables.studied import PromptSetItem as PromptSetItem
from mlux.store.tables.studied import Token as Token
from mlux.store.tables.studied import Tokenizer as Tokenizer
