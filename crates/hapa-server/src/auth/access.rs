//! What each route demands. Whatever is not named here demands an administrator.

use super::key::Scope;

/// What it takes to use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing: it tells nothing about anybody.
    Open,
    /// A key.
    AnyKey,
    /// A key with one of these scopes, or an administrator's.
    AnyOf(&'static [Scope]),
}

const GENERATION: Access = Access::AnyOf(&[Scope::CodeGeneration]);
const COMPLETION: Access = Access::AnyOf(&[Scope::CodeCompletion]);
const EITHER: Access = Access::AnyOf(&[Scope::CodeGeneration, Scope::CodeCompletion]);
const ADMIN: Access = Access::AnyOf(&[Scope::Admin]);

impl Access {
    /// What the route of a pattern demands; `None` is a path that no route has.
    pub(crate) fn of(pattern: Option<&str>) -> Self {
        match pattern {
            // Life signs, the description of the API, and the page, which asks for a key itself.
            Some(
                "/health" | "/api/v1/health" | "/ready" | "/docs" | "/docs/{*file}"
                | "/openapi.json",
            ) => Self::Open,
            Some("/" | "/web/{*file}" | "/favicon.ico") => Self::Open,
            Some("/api/v1/code/generate" | "/api/v1/code/generate/batch") => GENERATION,
            Some("/v1/chat/completions" | "/v1/messages" | "/v1/messages/count_tokens") => {
                GENERATION
            }
            Some("/api/v1/code/complete" | "/infill") => COMPLETION,
            // OpenAI's older route serves raw prompts and, with a suffix, completions; llama-server's clients send either as a
            // raw prompt.
            Some("/v1/completions" | "/completion" | "/completions") => EITHER,
            Some("/api/v1/validation/validate" | "/api/v1/validation/validate/batch") => {
                Self::AnyKey
            }
            Some("/v1/models" | "/v1/models/{model}") => Self::AnyKey,
            Some("/tokenize" | "/detokenize" | "/props") => Self::AnyKey,
            // They tell what the process does and slow it down a little.
            Some("/debug/profile" | "/debug/heap") => ADMIN,
            // Who has no key learns nothing about which paths there are.
            None => Self::AnyKey,
            Some(_) => ADMIN,
        }
    }

    /// Whether a key with these scopes may pass.
    pub(crate) fn allows(self, scopes: &[Scope]) -> bool {
        match self {
            Self::Open | Self::AnyKey => true,
            Self::AnyOf(needed) => {
                scopes.contains(&Scope::Admin) || needed.iter().any(|scope| scopes.contains(scope))
            }
        }
    }

    /// The scopes of which one is needed, in words.
    pub(crate) fn needed(self) -> String {
        match self {
            Self::Open | Self::AnyKey => String::new(),
            Self::AnyOf(scopes) => {
                let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
                names.join(" or ")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_by_default() {
        assert_eq!(Access::of(Some("/some/new/route")), ADMIN);
        assert_eq!(Access::of(Some("/metrics")), ADMIN);
        assert_eq!(Access::of(None), Access::AnyKey);
    }

    #[test]
    fn administrators_may_everything() {
        assert!(GENERATION.allows(&[Scope::Admin]));
        assert!(EITHER.allows(&[Scope::CodeCompletion]));
        assert!(!GENERATION.allows(&[Scope::CodeCompletion]));
        assert!(!ADMIN.allows(&[Scope::CodeGeneration, Scope::CodeCompletion]));
        assert!(Access::AnyKey.allows(&[]));
    }
}
