"""How Airflow runs the levels: pipelines, operators, triggers, alerts.

Nothing heavy is imported here.
"""
