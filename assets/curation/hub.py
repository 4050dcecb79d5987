"""Future-L1-50K as a dataset repository on a Hugging Face hub, pushed by hand."""

import dagster as dg

from assets.curation.assets import CURATED, SELECTION_CODE
from assets.curation.publication import CARD, CURATED_TABLE
from assets.curation.storyboards import REJECTED, STORYBOARDS, TOP_ROWS
from assets.framework.define import Asset, asset
from assets.framework.metadata import metadata_of
from assets.framework.retries import after_outages
from assets.framework.store import AssetStore
from assets.trajectories.hub import hub_access

HUB = "curation/hub"


def hub_asset(repository: str) -> dg.AssetsDefinition:
    declared = Asset(
        HUB,
        "By hand only: pushes the current Future-L1-50K to a dataset hub, with the environment's token.",
        kinds=("huggingface",),
        code=SELECTION_CODE,  # what is pushed is another asset's artifact as it is
        upstream=(CURATED,),
        table=CURATED_TABLE,
        links={"card": CARD},
        retry=after_outages(),
    )

    @asset(declared)
    def curation_hub(store: dg.ResourceParam[AssetStore]) -> dg.MaterializeResult[None]:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        curated = store.current(CURATED)
        endpoint, token = hub_access()
        where = f"dataset {repository} on {endpoint}"
        if not token:
            raise dg.Failure(f"nobody may push {where} without a token: set HF_TOKEN", allow_retries=False)
        api = HfApi(endpoint=endpoint, token=token)
        try:
            # Not create_repo's exist_ok: with a token that may make none, 2.4 trips over an endpoint given to HfApi.
            if not api.repo_exists(repository, repo_type="dataset"):
                api.create_repo(repository, repo_type="dataset")
            commit = api.upload_folder(
                repo_id=repository,
                repo_type="dataset",
                folder_path=curated.path,
                ignore_patterns=[STORYBOARDS, TOP_ROWS, REJECTED],  # the card says that no clip is part of it
                commit_message=f"Future-L1-50K, version {curated.version}",
            )
        except HfHubHTTPError as error:
            if error.response.status_code not in (401, 403):
                raise
            why = error.server_message or error.response.headers.get("X-Error-Message")
            raise dg.Failure(f"HF_TOKEN may not push {where}: {why}", allow_retries=False) from error
        pushed = {"commit": dg.MetadataValue.url(commit.commit_url)}
        return dg.MaterializeResult(
            data_version=dg.DataVersion(curated.version), metadata=metadata_of(store, declared, curated) | pushed
        )

    return curation_hub
