"""What people say of runs."""

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from mlux.store.tables.base import CASCADE, Base, Id, RunKey, is_one_of, table


class Claim(Base):
    """What somebody says the runs show."""

    __tablename__ = "claims"
    __table_args__ = table(
        UniqueConstraint("uid"), is_one_of("status", "supported", "refuted", "open")
    )

    id: Mapped[Id]
    uid: Mapped[str] = mapped_column(doc="The claim's name, the same in every database")
    text: Mapped[str]
    status: Mapped[str] = mapped_column(doc="supported, refuted or open")
    note: Mapped[str | None]
    created_at: Mapped[str]
    updated_at: Mapped[str]


class ClaimRun(Base):
    """A run that speaks for or against a claim."""

    __tablename__ = "claim_runs"
    __table_args__ = table(Index(None, "run_id"), clustered=True)

    claim_id: Mapped[int] = mapped_column(
        ForeignKey("claims.id", ondelete=CASCADE), primary_key=True
    )
    run_id: Mapped[RunKey]
    note: Mapped[str | None] = mapped_column(doc="What in the run")
