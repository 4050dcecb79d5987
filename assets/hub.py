"""The Hugging Face hub that data sets and models are pushed to: the profile's section `[hub]`, and the push."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import dagster as dg
from pydantic import Field

from assets.framework.settings import Settings
from assets.trajectories.hub import hub_access
from training.runtime.model_card import CardFields

HUB = "hub"
"""The group of the assets that push: a model's card needs its reports, so it comes after the group `reports`."""
PUBLISHED_SETS = ("future_l1", "text_only")
"""The SFT sets that have the rows of Future-L1-50K."""
REPOSITORY = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", re.ASCII)
Repository = Annotated[str, Field(pattern=REPOSITORY)]
License = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]
"""A license by the hub's identifier, such as `apache-2.0`, `cc-by-4.0` or `other`."""


class HubSettings(Settings):
    """Repositories that are pushed to, and the licenses that their cards name; nothing is pushed without a license."""

    dataset: Repository | None = None
    """The dataset repository of Future-L1-50K."""
    dataset_license: License | None = None
    """The set's license, by the hub's identifier."""
    models: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*/[\w.-]*\{model\}[\w.-]*$")
    """The model repositories, with `{model}` for the model's name: ORG/future-l1-{model}."""
    model_license: License | None = None
    """The models' license, by the hub's identifier."""
    base_model: Repository | None = None
    """The repository of the base model, which the cards of models link."""

    def card(self, sft_set: str | None = None) -> CardFields:
        """The fields of the card of a model that was trained on an SFT set, or of one that was trained by hand."""
        dataset = self.dataset if sft_set in PUBLISHED_SETS else None
        return CardFields(license=self.model_license, base_model=self.base_model, dataset=dataset)


def refuse_to_push_with_others(context: dg.AssetExecutionContext) -> None:
    """Raises ValueError in a backfill that makes other assets, too: "Materialize all" publishes nothing."""
    backfill = context.instance.get_backfill(context.run.tags.get("dagster/backfill", ""))
    if backfill and len(backfill.asset_selection or ()) > 1:
        raise ValueError("nothing is pushed together with other assets: materialise this one by itself")


def push_folder(
    folder: Path,
    repository: str,
    kind: Literal["dataset", "model"],
    message: str,
    replace: Sequence[str] = (),
) -> str:
    """Pushes a folder's files as one commit; returns the commit's address.

    Files of an earlier commit that match `replace` and are not in the folder are deleted; others stay.  The repository
    is made where there is none.  Large files that an earlier push has sent are not sent again, and where nothing
    changed the last commit stays.  Raises ValueError without a token that may write, and the client's own errors where
    the hub cannot be reached or is busy.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    endpoint, token = hub_access()
    where = f"{kind} {repository} on {endpoint}"
    if not token:
        raise ValueError(f"pushing {where} needs a token: set HF_TOKEN")
    api = HfApi(endpoint=endpoint, token=token)
    try:
        # Not create_repo's exist_ok: with a token that may make none, 2.4 trips over an endpoint given to HfApi.
        if not api.repo_exists(repository, repo_type=kind):
            api.create_repo(repository, repo_type=kind)
        commit = api.upload_folder(
            repo_id=repository,
            repo_type=kind,
            folder_path=folder,
            delete_patterns=list(replace) or None,
            commit_message=message,
        )
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise
        why = error.server_message or error.response.headers.get("X-Error-Message")
        raise ValueError(f"HF_TOKEN may not push {where}: {why}") from error
    except RuntimeError as error:  # 2.4 hides in one what broke off an upload, after which a retry goes on
        raise error.__cause__ or error from None
    return str(commit.commit_url)
