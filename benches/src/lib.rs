//! The tester of RFC 9693 and RFC 8219 (`gate64 bench`), and the benches.
