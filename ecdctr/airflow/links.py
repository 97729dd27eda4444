"""From a task in Airflow's UI to the page of what it made: a version, a study."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom


class VersionLink(BaseOperatorLink):
    """The button 'Version' of a task whose result names a version."""

    name = "Version"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page of the version, empty when the task made none."""
        result = XCom.get_value(ti_key=ti_key, key="return_value")
        version = result.get("version") if isinstance(result, dict) else None
        return f"/ecdctr/version/{version}" if version else ""


class StudyLink(BaseOperatorLink):
    """The button 'Study' of a task whose result names a study."""

    name = "Study"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page of the study, empty when the task made none."""
        result = XCom.get_value(ti_key=ti_key, key="return_value")
        name = result.get("name") if isinstance(result, dict) and "study" in result else None
        return f"/ecdctr/study/{name}" if name else ""
