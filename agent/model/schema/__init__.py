"""JSON Schemas of the documents (draft 2020-12, as in OpenAPI 3.1): job, status, disks, error body.

They are made from the constants that the models use, so that they stay true. Each function returns a new document
without references.
"""
