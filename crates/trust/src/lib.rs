//! Cryptography for the house: X.509 and SPIFFE, TLS configuration, JOSE, AEAD, hashing.
