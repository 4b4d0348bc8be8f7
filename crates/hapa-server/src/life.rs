//! How far a server's life has come, for all who must end with it.

use tokio::sync::watch;

/// What the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It answers.
    Serving,
    /// It accepts nobody; answers under way may finish.
    Finishing,
    /// The grace time is over: what is not whole is told so.
    Ending,
    /// Connections are closed, whatever they are at.
    Cut,
}

/// The stage of a server; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Life(watch::Sender<Stage>);

impl Default for Life {
    fn default() -> Self {
        Self(watch::Sender::new(Stage::Serving))
    }
}

impl Life {
    pub(crate) fn stage(&self) -> Stage {
        *self.0.borrow()
    }

    /// Never goes back.
    pub(crate) fn advance(&self, to: Stage) {
        self.0.send_if_modified(|stage| {
            let is_later = to > *stage;
            if is_later {
                *stage = to;
            }
            is_later
        });
    }

    /// Waits for a stage.
    pub(crate) async fn at_least(&self, stage: Stage) {
        let mut stages = self.0.subscribe();
        // The sender is in `self`, so there is an answer.
        let _ = stages.wait_for(|now| *now >= stage).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_only_advance() {
        let life = Life::default();
        assert_eq!(life.stage(), Stage::Serving);
        let waiting = tokio::spawn({
            let life = life.clone();
            async move { life.at_least(Stage::Ending).await }
        });
        life.advance(Stage::Cut);
        life.advance(Stage::Finishing);
        waiting.await.unwrap();
        assert_eq!(life.stage(), Stage::Cut);
    }
}
