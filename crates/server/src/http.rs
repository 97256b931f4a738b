//! How requests come in and answers go out: bodies, parameters, callers, problems, the document.

pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod frame;
pub(crate) mod operation;
pub(crate) mod paging;
pub(crate) mod refusal;
pub(crate) mod write;
