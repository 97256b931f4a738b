//! What Galerne promises outside: types of the OpenAI-compatible surface and of `/api/v1`, and the client.

pub mod openai;
