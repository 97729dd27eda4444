"""Airflow: dates, operators, and the one pipeline behind the three DAGs. Nothing heavy is imported here."""
