//! Sessions of one model: each runs one picture at a time, and a bounded number of pictures waits.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::registry::{self, ModelFile, ModelSpec};
use super::runtime::{self, RunFault, RuntimeOptions, Session};
use super::tensor::{self, Map};
use super::{Loaded, ModelError};

/// Sessions of one model.
pub struct Pool {
    loaded: Loaded,
    file: ModelFile,
    options: RuntimeOptions,
    state: Mutex<State>,
    freed: Condvar,
    /// Set aside for the sessions as long as they live.
    reserved: Vec<Box<dyn Send + Sync>>,
}

struct State {
    idle: Vec<Session>,
    /// Sessions that broke and could not be opened again; they are when they are next needed.
    broken: usize,
    waiting: usize,
}

impl Pool {
    /// Opens the sessions. `start` is when loading began.
    ///
    /// # Errors
    /// What is wrong with library, file or provider.
    pub fn open(
        spec: &ModelSpec,
        file: &ModelFile,
        options: &RuntimeOptions,
        reserved: Box<dyn Send + Sync>,
        start: Instant,
    ) -> Result<Self, String> {
        let opened = runtime::open(spec, file, options)?;
        let mut idle = vec![opened.session];
        for _ in 1..options.sessions.max(1) {
            idle.push(runtime::open_with(spec, file, options, opened.choice.provider)?);
        }
        let loaded = Loaded {
            name: spec.name.clone(),
            sha256: file.sha256.clone(),
            choice: opened.choice,
            spec: spec.clone(),
            input: opened.input,
            load_ms: start.elapsed().as_secs_f64() * 1e3,
        };
        let state = Mutex::new(State { idle, broken: 0, waiting: 0 });
        let (file, options) = (file.clone(), options.clone());
        Ok(Self { loaded, file, options, state, freed: Condvar::new(), reserved: vec![reserved] })
    }

    /// Keeps what is set aside for the sessions besides.
    pub fn hold(&mut self, reserved: Box<dyn Send + Sync>) {
        self.reserved.push(reserved);
    }

    /// The model.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Runs the model on one picture, channel after channel.
    ///
    /// # Errors
    /// [`ModelError::Busy`] when too many wait; [`ModelError::Failed`] when memory ran out or the device was lost twice;
    /// [`ModelError::Output`] when the output is no map.
    pub fn run(&self, input: &[f32]) -> Result<Map, ModelError> {
        let mut session = Lent { pool: self, session: self.take()? };
        let mut result = session.run(input);
        if let Err(RunFault::Lost(problem)) = &result {
            tracing::warn!(model = self.loaded.name, "{problem}; trying again on a new session");
            // Its memory first: there may not be enough for two.
            session.session = None;
            session.session = Some(self.reopen()?);
            result = session.run(input);
        }
        match result {
            Ok((output, logits)) => {
                let (width, height) = (output.width, output.height);
                tensor::map(&output.values, logits.as_deref(), self.loaded.spec.contract.output, width, height)
                    .map_err(|problem| ModelError::Output(self.said(&problem)))
            }
            Err(RunFault::Lost(problem)) => {
                // The next picture gets a new one.
                session.session = None;
                Err(ModelError::Failed(self.said(&format!("{problem}, twice"))))
            }
            Err(RunFault::Shape(problem)) => Err(ModelError::Output(self.said(&problem))),
            Err(RunFault::Refused(problem)) => {
                let (width, height) = self.loaded.input;
                Err(ModelError::Unavailable(self.said(&format!(
                    "{problem}; it does not take pictures of {width}×{height}, or the file is damaged: check both"
                ))))
            }
        }
    }

    fn said(&self, problem: &str) -> String {
        format!("the model {}: {problem}", self.loaded.name)
    }

    fn reopen(&self) -> Result<Session, ModelError> {
        // Days may have passed: another file under that name is not what manifests say.
        let failed = |problem: String| ModelError::Failed(self.said(&problem));
        if registry::check_file(&self.loaded.spec, &self.file.path).map_err(failed)?.sha256 != self.file.sha256 {
            return Err(failed("its file is another one now; start the program anew".into()));
        }
        runtime::open_with(&self.loaded.spec, &self.file, &self.options, self.loaded.choice.provider)
            .map_err(|problem| ModelError::Failed(self.said(&problem)))
    }

    fn take(&self) -> Result<Option<Session>, ModelError> {
        let mut state = self.lock();
        loop {
            if let Some(session) = state.idle.pop() {
                return Ok(Some(session));
            }
            if state.broken > 0 {
                state.broken -= 1;
                drop(state);
                return match self.reopen() {
                    Ok(session) => Ok(Some(session)),
                    Err(error) => {
                        self.lock().broken += 1;
                        self.freed.notify_one();
                        Err(error)
                    }
                };
            }
            if state.waiting >= self.options.queue {
                return Err(ModelError::Busy { name: self.loaded.name.clone(), waiting: state.waiting });
            }
            state.waiting += 1;
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session on loan: it goes back whatever happens.
struct Lent<'a> {
    pool: &'a Pool,
    session: Option<Session>,
}

impl Lent<'_> {
    fn run(&mut self, input: &[f32]) -> Result<(runtime::Plane, Option<Vec<f32>>), RunFault> {
        match &mut self.session {
            Some(session) => session.run(input),
            None => Err(RunFault::Lost("there is no session".into())),
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        match self.session.take() {
            Some(session) => state.idle.push(session),
            None => state.broken += 1,
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}
