//! What each route demands. Whatever is not named here demands an administrator.

use axum::http::StatusCode;

use super::caller::Caller;
use super::key::Scope;
use crate::problem::Problem;

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

pub(crate) const GENERATION: Access = Access::AnyOf(&[Scope::CodeGeneration]);
pub(crate) const COMPLETION: Access = Access::AnyOf(&[Scope::CodeCompletion]);
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
            // Raw prompts: of llama-server's clients completions, too, which the prompt's markers make; nobody else sees that.
            Some("/completion" | "/completions") => GENERATION,
            // OpenAI's older route serves raw prompts and, with a suffix, completions: its handler knows which.
            Some("/v1/completions") => EITHER,
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

    /// That a caller may do this; nobody is known where no keys are needed.
    ///
    /// # Errors
    /// 403 when its key has not the scope.
    pub(crate) fn check(self, caller: Option<&Caller>) -> Result<(), Problem> {
        match caller {
            Some(caller) if !self.allows(&caller.record.scopes) => {
                let message = format!(
                    "the key `{}` may not do this; it takes the scope {}",
                    caller.record.name,
                    self.needed()
                );
                let problem = Problem::new(StatusCode::FORBIDDEN, "FORBIDDEN", message);
                Err(Problem { openai_code: Some("insufficient_permissions"), ..problem })
            }
            _ => Ok(()),
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
    fn needed(self) -> String {
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
