//! Executions against a server that follows a script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response};
use wardian_proto::reapi::execution_server::ExecutionServer;

use super::super::connect::Access;
use super::*;

type Answer = Result<Vec<Result<longrunning::Operation, Status>>, Status>;

/// Answers calls one after the other and notes what was called.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    calls: Arc<Mutex<Vec<String>>>,
}

type Operations = BoxStream<'static, Result<longrunning::Operation, Status>>;

impl Script {
    fn answer(&self, call: String) -> Result<Response<Operations>, Status> {
        self.calls.lock().unwrap().push(call);
        let answer = self.answers.lock().unwrap().pop_front().expect("more calls than the script has");
        answer.map(|operations| Response::new(stream::iter(operations).boxed()))
    }
}

#[tonic::async_trait]
impl reapi::execution_server::Execution for Script {
    type ExecuteStream = Operations;
    type WaitExecutionStream = Operations;

    async fn execute(&self, _: Request<reapi::ExecuteRequest>) -> Result<Response<Operations>, Status> {
        self.answer("Execute".to_owned())
    }

    async fn wait_execution(
        &self,
        request: Request<reapi::WaitExecutionRequest>,
    ) -> Result<Response<Operations>, Status> {
        self.answer(format!("WaitExecution {}", request.into_inner().name))
    }
}

fn queued(name: &str) -> Result<longrunning::Operation, Status> {
    Ok(longrunning::Operation { name: name.to_owned(), ..Default::default() })
}

fn done(name: &str) -> Result<longrunning::Operation, Status> {
    let response =
        reapi::ExecuteResponse { result: Some(reapi::ActionResult::default()), ..Default::default() };
    let any = wardian_proto::pack_any("build.bazel.remote.execution.v2.ExecuteResponse", &response);
    let result = Some(longrunning::operation::Result::Response(any));
    Ok(longrunning::Operation { name: name.to_owned(), done: true, metadata: None, result })
}

/// Runs an execution to its end. Returns what the server was asked and how it ended.
async fn follow(answers: Vec<Answer>) -> (Vec<String>, Result<Outcome, ClientError>) {
    let script = Script { answers: Arc::new(Mutex::new(answers.into())), ..Script::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: super::super::ServerUrl = listener.local_addr().unwrap().to_string().parse().unwrap();
    let server = tonic::transport::Server::builder().add_service(ExecutionServer::new(script.clone()));
    let server = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let mut execution =
        Execution::new(Access::from(url).connect().await.unwrap(), reapi::ExecuteRequest::default());
    let outcome = loop {
        match execution.next().await {
            Ok(Step::Done(outcome)) => break Ok(*outcome),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    server.abort();
    let calls = script.calls.lock().unwrap().clone();
    (calls, outcome)
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_by_name() {
    let (calls, outcome) = follow(vec![
        Ok(vec![queued("op-1"), Err(Status::unavailable("restarting"))]),
        Ok(vec![queued("op-1"), done("op-1")]),
    ])
    .await;
    assert_eq!(calls, ["Execute", "WaitExecution op-1"]);
    assert_eq!(outcome.unwrap().operation, "op-1");
}

#[tokio::test]
async fn a_stream_that_just_ends_is_taken_up_too() {
    let (calls, outcome) = follow(vec![Ok(vec![queued("op-1")]), Ok(vec![done("op-1")])]).await;
    assert_eq!(calls, ["Execute", "WaitExecution op-1"]);
    assert!(outcome.is_ok());
}

#[tokio::test]
async fn a_server_that_forgot_the_operation_is_asked_for_the_action_again() {
    let (calls, outcome) = follow(vec![
        Ok(vec![queued("op-1"), Err(Status::unavailable("restarting"))]),
        Err(Status::not_found("no operation op-1")),
        Ok(vec![done("op-2")]),
    ])
    .await;
    assert_eq!(calls, ["Execute", "WaitExecution op-1", "Execute"]);
    assert_eq!(outcome.unwrap().operation, "op-2");
}

#[tokio::test]
async fn refusals_are_final() {
    for status in [Status::invalid_argument("no"), Status::not_found("no"), Status::internal("bug")] {
        let (calls, outcome) = follow(vec![Err(status)]).await;
        assert_eq!(calls, ["Execute"]);
        assert!(matches!(outcome, Err(ClientError::Call { call: "Execute", .. })));
    }
}
