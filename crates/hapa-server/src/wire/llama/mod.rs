//! The part of llama-server's API that editors use: `/infill`, `/completion`, `/tokenize`, `/detokenize`, `/props`, `/slots`.
mod request;
mod response;
mod server;
mod tokens;

pub(crate) use request::{Asked, named_as_sent};
pub use request::{ExtraFile, InfillBody, TextBody};
pub(crate) use response::InfillAnswer;
pub use response::{
    AnswerSettings, GenerationSettings, InfillDelta, InfillResponse, InfillTimings,
};
pub(crate) use server::ModelQuery;
pub use server::{DefaultSettings, Modalities, Props, Slot};
pub use tokens::{DetokenizeBody, Detokenized, Piece, TextToken, TokenizeBody, Tokens};
