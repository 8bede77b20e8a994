"""The worker: does the long work that other functions asked for, from SQS, as many messages at once as it is given.

    ingest      a document's file -> its text -> passages -> vectors -> `vecs.passages`       asked for by `documents`

It has no URL. A message says that a job needs hands; what is to be done next, and whether someone is at it already, is
in Postgres (`claims`). Every step may break off anywhere and run again. The bucket's own messages of new files are
taken from the same queue (`notices`).
"""

from agentkit import telemetry
from agentkit.work import sqs_handler
from functions.worker import ingest, notices

telemetry.configure_logging()

handler = sqs_handler({"ingest": ingest.next_step}, notice=notices.uploaded)
