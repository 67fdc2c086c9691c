//! bismuth-http.
