//! One flight: of callers who want the same work at the same time, one does it and all get the result.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Work in progress, by what tells it from other work. Clones share it.
#[derive(Debug, Clone)]
pub struct Flights<T> {
    flying: Arc<Mutex<HashMap<String, watch::Receiver<Option<T>>>>>,
}

/// What a caller is to do.
#[derive(Debug)]
pub enum Seat<T> {
    /// The work.
    Pilot(Pilot<T>),
    /// Wait for the one who does it.
    Passenger(Passenger<T>),
}

/// Does the work. Dropped without a result, somebody who waits takes over.
#[derive(Debug)]
pub struct Pilot<T> {
    flights: Flights<T>,
    key: String,
    tell: watch::Sender<Option<T>>,
}

/// Waits for the one who does the work.
#[derive(Debug)]
pub struct Passenger<T>(watch::Receiver<Option<T>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { flying: Arc::default() }
    }
}

impl<T: Clone> Flights<T> {
    /// Takes a seat in the flight of this key, the first one at its controls.
    pub fn board(&self, key: &str) -> Seat<T> {
        let mut flying = self.flying();
        if let Some(flight) = flying.get(key) {
            return Seat::Passenger(Passenger(flight.clone()));
        }
        let (tell, told) = watch::channel(None);
        flying.insert(key.to_owned(), told);
        Seat::Pilot(Pilot { flights: self.clone(), key: key.to_owned(), tell })
    }

    /// How many are in progress.
    pub fn count(&self) -> usize {
        self.flying().len()
    }
}

impl<T> Flights<T> {
    fn flying(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Option<T>>>> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Pilot<T> {
    /// Gives everybody who waits the result, and ends the flight.
    pub fn land(self, result: T) {
        self.tell.send_replace(Some(result));
    }
}

impl<T> Drop for Pilot<T> {
    fn drop(&mut self) {
        // Before the channel closes: whoever is woken by that boards anew.
        self.flights.flying().remove(&self.key);
    }
}

impl<T: Clone> Passenger<T> {
    /// The result; none when the one who did the work gave up, so that somebody else has to.
    pub async fn wait(mut self) -> Option<T> {
        match self.0.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn of_many_callers_one_works_and_all_get_the_result() {
        let (flights, worked) = (Flights::default(), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let (flights, worked) = (flights.clone(), worked.clone());
                tokio::spawn(async move {
                    match flights.board("a") {
                        Seat::Pilot(pilot) => {
                            worked.fetch_add(1, Ordering::SeqCst);
                            tokio::time::sleep(Duration::from_millis(50)).await;
                            pilot.land(7);
                            7
                        }
                        Seat::Passenger(passenger) => passenger.wait().await.unwrap(),
                    }
                })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), 7);
        }
        assert_eq!((worked.load(Ordering::SeqCst), flights.count()), (1, 0));
        assert!(matches!(flights.board("a"), Seat::Pilot(_)), "the next one works anew");
    }

    #[tokio::test]
    async fn when_the_one_who_works_dies_exactly_one_of_the_others_takes_over() {
        let flights = Flights::<u32>::default();
        let Seat::Pilot(pilot) = flights.board("a") else { panic!() };
        let others: Vec<_> = (0..50)
            .map(|_| {
                let flights = flights.clone();
                tokio::spawn(async move {
                    loop {
                        match flights.board("a") {
                            Seat::Pilot(pilot) => {
                                tokio::time::sleep(Duration::from_millis(20)).await;
                                pilot.land(1);
                                return 1;
                            }
                            Seat::Passenger(passenger) => {
                                if passenger.wait().await.is_some() {
                                    return 0;
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(pilot);
        let mut pilots = 0;
        for other in others {
            pilots += other.await.unwrap();
        }
        assert_eq!(pilots, 1);
    }

    #[tokio::test]
    async fn different_work_flies_by_itself() {
        let flights = Flights::<()>::default();
        let _a = flights.board("a");
        assert!(matches!(flights.board("b"), Seat::Pilot(_)));
    }
}
