-- Events by the request they tell of, for whoever asks why it was refused.

CREATE INDEX event_request ON event (request_id) WHERE request_id IS NOT NULL;
