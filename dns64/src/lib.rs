//! DNS64 (RFC 6147): pure synthesis, and a server on hickory.
