//! The adapters on the engine's side: loaded, put on for a turn, freed when nobody holds them any more.

use std::sync::Arc;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::model::LlamaModel;
use tokio::sync::oneshot;

use super::native::AdapterWeights;
use crate::adapter::{Adapter, AdapterId};
use crate::complaint;
use crate::job::{Attach, Detach};

pub(super) struct Wardrobe {
    model: Arc<LlamaModel>,
    attached: Vec<Attached>,
    /// What the context wears.
    worn: Option<AdapterId>,
}

struct Attached {
    adapter: Arc<Adapter>,
    weights: AdapterWeights,
    /// Whom to tell when it is gone.
    leaving: Option<oneshot::Sender<()>>,
}

impl Wardrobe {
    pub(super) fn new(model: Arc<LlamaModel>) -> Self {
        Self { model, attached: vec![], worn: None }
    }

    /// Loads an adapter. Sequences wait meanwhile: reading one of a hundred megabytes takes about as long as a few steps.
    pub(super) fn attach(&mut self, job: Attach) {
        complaint::forget();
        let loaded = AdapterWeights::load(&self.model, &job.path);
        let told = loaded.as_ref().map(|_| ()).ok_or_else(|| complaint::since_last(&"llama.cpp does not take it"));
        if let Some(weights) = loaded {
            tracing::info!(name = %job.adapter.name, "adapter attached");
            self.attached.push(Attached { adapter: job.adapter, weights, leaving: None });
        }
        if job.reply.send(told).is_err() {
            tracing::debug!("whoever wanted an adapter attached has left: nobody holds it, it goes again");
        }
    }

    /// Notes who wants to know when an adapter is gone.
    pub(super) fn detach(&mut self, job: Detach) {
        match self.find(job.id) {
            Some(attached) => attached.leaving = Some(job.reply),
            None => tell(job.reply),
        }
    }

    pub(super) fn is_any_leaving(&self) -> bool {
        self.attached.iter().any(|attached| attached.leaving.is_some())
    }

    /// Frees the adapters that nothing else holds; says which.
    pub(super) fn let_go(&mut self, context: &mut LlamaContext<'_>) -> Vec<AdapterId> {
        let mut gone = vec![];
        while let Some(at) = self.attached.iter().position(|attached| Arc::strong_count(&attached.adapter) == 1) {
            let mut attached = self.attached.swap_remove(at);
            let id = attached.adapter.id;
            if self.worn == Some(id) {
                attached.weights.take_off(context);
                self.worn = None;
            }
            tracing::info!(name = %attached.adapter.name, "adapter detached");
            if let Some(reply) = attached.leaving {
                tell(reply);
            }
            gone.push(id);
        }
        gone
    }

    /// Has the context wear an adapter, or none. An adapter that a request holds is attached.
    pub(super) fn wear(&mut self, context: &mut LlamaContext<'_>, wanted: Option<AdapterId>) {
        if wanted == self.worn {
            return;
        }
        match wanted {
            Some(id) => {
                let attached = self.find(id).expect("held adapters stay attached");
                attached.weights.put_on(context, attached.adapter.scale);
            }
            None => {
                if let Some(attached) = self.worn.and_then(|id| self.find(id)) {
                    attached.weights.take_off(context);
                }
            }
        }
        self.worn = wanted;
    }

    fn find(&mut self, id: AdapterId) -> Option<&mut Attached> {
        self.attached.iter_mut().find(|attached| attached.adapter.id == id)
    }
}

fn tell(reply: oneshot::Sender<()>) {
    if reply.send(()).is_err() {
        tracing::debug!("nobody waits for the adapter to be gone");
    }
}
