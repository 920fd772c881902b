//! Gateway and sidecar: every call authenticated, authorized, limited and recorded.
