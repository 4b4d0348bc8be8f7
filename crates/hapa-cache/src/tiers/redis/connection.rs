//! One multiplexed connection: to a server, or to a cluster.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisResult};
use std::time::Duration;

/// What to connect to.
pub(super) enum Target {
    Server(Box<Client>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Box<redis::cluster::ClusterClient>),
}

/// A connection; clones share it, and commands of many callers are in flight on it at once.
#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    #[cfg(feature = "redis-cluster")]
    Cluster(redis::cluster_async::ClusterConnection),
}

impl Target {
    /// Reads the addresses; connects to nothing.
    pub(super) fn new(urls: &[String], cluster: bool) -> RedisResult<Self> {
        #[cfg(feature = "redis-cluster")]
        if cluster {
            // Retries are the breaker's.
            let client =
                redis::cluster::ClusterClient::builder(urls.to_vec()).retries(2).build()?;
            return Ok(Self::Cluster(Box::new(client)));
        }
        debug_assert!(!cluster, "there is no way to ask for a cluster without its feature");
        Ok(Self::Server(Box::new(Client::open(urls.first().map_or("", String::as_str))?)))
    }

    pub(super) fn is_cluster(&self) -> bool {
        !matches!(self, Self::Server(_))
    }

    pub(super) async fn connect(&self, timeout: Duration) -> RedisResult<Connection> {
        match self {
            Self::Server(client) => {
                // How long an answer may take is each caller's own affair.
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(timeout))
                    .set_response_timeout(None);
                let connection = client.get_multiplexed_async_connection_with_config(&config);
                Ok(Connection::Server(connection.await?))
            }
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(client) => Ok(Connection::Cluster(client.get_async_connection().await?)),
        }
    }
}

impl Connection {
    pub(super) async fn command<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Server(server) => command.query_async(server).await,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => command.query_async(cluster).await,
        }
    }

    /// Sends many commands and passes their answers over. On a cluster each goes its own way.
    pub(super) async fn commands(&mut self, commands: Vec<Cmd>) -> RedisResult<()> {
        match self {
            Self::Server(server) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command).ignore();
                }
                pipeline.query_async(server).await
            }
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => {
                for command in commands {
                    command.query_async::<()>(cluster).await?;
                }
                Ok(())
            }
        }
    }
}
