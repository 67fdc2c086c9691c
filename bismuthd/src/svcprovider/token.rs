//! The bearer token with which a program calls its service socket.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bismuth_handover::TokenDigest;

/// The variable that carries it.
const VARIABLE: &str = "BISMUTH_AUTH";

/// 32 random bytes in base64url. It opens only the socket of the container it was made for, which only that container can
/// reach.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// When the kernel has no randomness, which it has.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The one that a program of an earlier process was given; `None` if it was started before there were any.
    pub fn in_environment(env: &[String]) -> Option<Self> {
        let of = |line: &String| {
            line.strip_prefix(VARIABLE)?
                .strip_prefix('=')
                .map(str::to_owned)
        };
        env.iter().find_map(of).map(Self)
    }

    /// Name and value for the program's environment.
    pub fn variable(&self) -> (&'static str, &str) {
        (VARIABLE, &self.0)
    }

    /// What svcprovider recognises it by.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_unique_and_recovered_from_the_environment() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert_ne!(one.digest(), other.digest());
        let (name, value) = one.variable();
        assert_eq!(value.len(), 43);
        let env = [
            "A=b".to_owned(),
            format!("{name}X=1"),
            format!("{name}={value}"),
        ];
        assert_eq!(Token::in_environment(&env), Some(one));
        assert_eq!(Token::in_environment(&env[..2]), None);
    }
}
