//! Exchanges an identity token, which `docker login` stores in place of a password, for an access token.
//!
//! An identity token is an OAuth2 refresh token. It is exchanged at the registry's token server for an access token to one
//! repository (distribution specification `docs/spec/auth/oauth.md`), which `oci-client` then presents.

use std::time::Duration;

use bismuth_base::chain;
use http_auth::ChallengeRef;
use serde::Deserialize;

/// A token server answers from memory; Azure's, the usual one behind identity tokens, takes about a second.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(20);
/// What we call ourselves to the token server; it shows in the account's list of sessions.
const CLIENT_ID: &str = "bismuth";

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
}

/// Exchanges `identity_token` for an access token that may pull `repository` from the registry at `base` (`https://host`).
pub(super) async fn exchange(
    http: &reqwest::Client,
    base: &str,
    repository: &str,
    identity_token: &str,
) -> Result<String, String> {
    let run = async {
        let challenge = http
            .get(format!("{base}/v2/"))
            .send()
            .await
            .map_err(|e| chain(&e))?;
        let header = challenge
            .headers()
            .get(http::header::WWW_AUTHENTICATE)
            .and_then(|value| value.to_str().ok());
        let (realm, service) = header.and_then(bearer).ok_or(
            "the registry does not ask for a bearer token, so an identity token is no use",
        )?;
        let mut form = format!(
            "grant_type=refresh_token&client_id={CLIENT_ID}&refresh_token={}",
            encoded(identity_token)
        );
        form.push_str(&format!(
            "&scope={}",
            encoded(&format!("repository:{repository}:pull"))
        ));
        if let Some(service) = service {
            form.push_str(&format!("&service={}", encoded(&service)));
        }
        let request = http
            .post(&realm)
            .header(
                http::header::CONTENT_TYPE,
                "application/x-www-form-urlencoded",
            )
            .body(form);
        let answer = request.send().await.map_err(|e| chain(&e))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|e| chain(&e))?;
        if !status.is_success() {
            return Err(format!(
                "{realm} answered {status}: {}",
                super::classify::error_text(&body)
            ));
        }
        let token: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| format!("{realm} answered no access token"))?;
        Ok(token.access_token)
    };
    let late = |_| format!("no access token within {EXCHANGE_DEADLINE:?}");
    tokio::time::timeout(EXCHANGE_DEADLINE, run)
        .await
        .map_err(late)?
}

/// The realm and service of the first bearer challenge.
fn bearer(header: &str) -> Option<(String, Option<String>)> {
    let challenges: Vec<ChallengeRef<'_>> = http_auth::parse_challenges(header).ok()?;
    let challenge = challenges
        .iter()
        .find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))?;
    let param = |name: &str| {
        let found = challenge
            .params
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    Some((param("realm")?, param("service")))
}

/// `application/x-www-form-urlencoded` of one value.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_server_is_read_from_the_challenge() {
        let header =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="x""#;
        let expected = (
            "https://auth.example/token".to_owned(),
            Some("registry.example".to_owned()),
        );
        assert_eq!(bearer(header), Some(expected));
        assert_eq!(bearer(r#"Basic realm="x""#), None);
    }

    #[test]
    fn form_values_are_escaped() {
        assert_eq!(encoded("a b&c=é"), "a%20b%26c%3D%C3%A9");
    }
}
