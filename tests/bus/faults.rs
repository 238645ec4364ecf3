//! What goes wrong between hosts, and what becomes of it.
