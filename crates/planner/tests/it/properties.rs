//! What holds whatever is asked: the order in which things are told does not matter, one more node takes nothing away,
//! and queues that all want more get what progressive filling would give them.

mod fairness;
mod growth;
mod order;
