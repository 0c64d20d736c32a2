//! The architectures there are machines for, and what Debian and the compiler call them.

use clap::ValueEnum;

/// An architecture of guests, and of the hosts whose KVM runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// x86-64
    #[value(name = "x86_64", alias = "amd64")]
    X86_64,
    /// arm64
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

impl Arch {
    /// This machine's; whatever is neither is treated as x86-64, as Debian's packages for it are
    /// there to be emulated.
    pub(crate) fn host() -> Self {
        if std::env::consts::ARCH == "aarch64" { Self::Aarch64 } else { Self::X86_64 }
    }

    /// The one this machine's programs are not for.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::X86_64 => Self::Aarch64,
            Self::Aarch64 => Self::X86_64,
        }
    }

    /// Rust's name for programs of it.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Debian's name for it.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The name of its folder in Linux's source.
    pub(crate) fn linux(self) -> &'static str {
        match self {
            Self::X86_64 => "x86",
            Self::Aarch64 => "arm64",
        }
    }

    /// The GNU tools' name for it, with which their programs begin.
    pub(crate) fn gnu(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
        }
    }

    /// The Debian package `name` of this architecture.
    pub(crate) fn package(self, name: &str) -> String {
        format!("{name}:{}", self.debian())
    }
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}
