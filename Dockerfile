# The one image of ecdctr: Airflow's components, local training, and the pods of KubernetesPodOperator.
FROM python:3.12-slim-bookworm

RUN useradd --uid 1000 --create-home --shell /usr/sbin/nologin ecdctr \
    && mkdir -p /opt/ecdctr /ecdctr/data /ecdctr/prepared /ecdctr/store /ecdctr/airflow \
    && chown -R ecdctr:ecdctr /ecdctr

WORKDIR /opt/ecdctr
COPY constraints.txt pyproject.toml README.md ./
COPY ecdctr ecdctr
RUN pip install --no-cache-dir -c constraints.txt '.[train,studies,airflow,kubernetes,monitoring,postgres]'
COPY dags dags
COPY plugins plugins

USER ecdctr
ENV AIRFLOW_HOME=/ecdctr/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/ecdctr/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/ecdctr/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False
CMD ["ecdctr", "--help"]
