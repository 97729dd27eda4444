"""From a training task in Airflow's UI to the page of the version that it made."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom


class VersionLink(BaseOperatorLink):
    """The button 'Version' of a task whose result names a version."""

    name = "Version"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The page of the version, empty when the task made none."""
        result = XCom.get_value(ti_key=ti_key, key="return_value")
        version = result.get("version") if isinstance(result, dict) else None
        return f"/ecdctr/version/{version}" if version else ""
