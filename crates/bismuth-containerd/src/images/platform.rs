//! Chooses the image of an index that fits this machine's platform.
//!
//! The rule: same operating system and architecture; of those, the best variant that this machine can run, where no
//! variant means the architecture's baseline. Between equals the first one listed wins, as in the image specification.

use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

/// An operating system, an architecture and its variant, in the names of the OCI image specification (Go's `GOOS` and
/// `GOARCH`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`, …
    #[serde(default)]
    pub architecture: String,
    /// `v7` of `arm`, `v8` of `arm64`, `v2` and up of `amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The machine this runs on.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an image for `offered` runs here: `None` not at all, else the higher the better.
    fn fitness(&self, offered: &Self) -> Option<u32> {
        let same = self.os == offered.os && self.architecture == offered.architecture;
        if !same {
            return None;
        }
        let level = |variant: &Option<String>| match variant.as_deref() {
            None | Some("") => Some(None),
            Some(text) => text.strip_prefix('v')?.parse::<u32>().ok().map(Some),
        };
        let baseline = match self.architecture.as_str() {
            "arm64" => 8,
            // An unmarked arm image is what Docker builds: v7 (moby's and containerd's normalisation).
            "arm" => 7,
            _ => 1,
        };
        let ours = level(&self.variant)?.unwrap_or(baseline);
        let theirs = level(&offered.variant)?.unwrap_or(baseline);
        (theirs <= ours).then_some(theirs)
    }

    /// The index of the best of `offered`, or `None` if this machine can run none.
    pub fn choose<'a>(&self, offered: impl Iterator<Item = &'a Self>) -> Option<usize> {
        let fitting = offered.enumerate().filter_map(|(position, platform)| {
            let fitness = self.fitness(platform)?;
            Some((fitness, Reverse(position)))
        });
        fitting.max().map(|(_, Reverse(position))| position)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next(),
        }
    }

    fn chosen(host: &str, offered: &[&str]) -> Option<usize> {
        let offered: Vec<_> = offered.iter().map(|text| platform(text)).collect();
        platform(host).choose(offered.iter())
    }

    #[test]
    fn the_best_variant_that_runs_here_is_chosen() {
        for (host, offered, position) in [
            ("linux/amd64", &["linux/arm64", "linux/amd64"][..], Some(1)),
            ("linux/amd64", &["windows/amd64", "linux/s390x"], None),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64"], Some(1)),
            (
                "linux/arm64/v8",
                &["linux/arm64/v9", "linux/arm64"],
                Some(1),
            ),
            (
                "linux/arm/v7",
                &["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"],
                Some(1),
            ),
            ("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5"], Some(1)),
        ] {
            assert_eq!(chosen(host, offered), position, "{host} of {offered:?}");
        }
    }

    #[test]
    fn attestations_are_for_no_platform_and_of_equals_the_first_wins() {
        assert_eq!(
            chosen(
                "linux/amd64",
                &["unknown/unknown", "linux/amd64", "linux/amd64"]
            ),
            Some(1)
        );
    }

    #[test]
    fn an_unknown_variant_is_not_taken() {
        assert_eq!(chosen("linux/amd64", &["linux/amd64/fancy"]), None);
    }
}
