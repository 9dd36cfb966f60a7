// Package chaos tests what package mdb promises while things break: subscriptions
// deliver every committed message at least once, in order and without a gap, and an
// acknowledged write is in the store exactly once.
//
// The package consists of tests. Each runs a workload of writers and subscriptions
// while a proxy breaks its connections, the server ends sessions or is restarted, or
// processes are killed. The clients record what they do in a history, and validators
// compare it with the store. Clients that are broken on purpose prove that each
// validator finds violations.
//
//	go test ./internal/chaos                      small, as part of make test-all
//	go test ./internal/chaos -size ci             make test-faults
//	go test ./internal/chaos -size soak -run Soak -duration 1h
//	go test ./internal/chaos -size soak -run 'Soak/groups' -duration 20m  only the parts of this name
//	go test ./internal/chaos -run Failover -failover  make test-failover
//	go test ./internal/chaos -seed 7              repeats the decisions of an earlier run
//
// The seed determines which faults are injected, and at which message. What else
// happens at the same time depends on the scheduler.
//
// The words of these tests:
//
//   - A fault is a failure that a test injects, such as a connection cut at the third
//     message of a write. A bug is what a client of TestValidators does wrong.
//   - A workload is the writers and subscriptions that work while faults are injected.
//   - An op is one write call. Its outcome is pending until it is known, then acked
//     or failed. It is also unknown if the client ever got an UnknownOutcomeError.
//   - A subscriber is a subscription across restarts. An incarnation is one of its
//     Subscribe calls, from its start to its end.
//   - The chain is a subscription whose handler writes each message to a second
//     category, under an ID derived from the message's.
//   - A history is the record of what all clients did and received. A validator finds
//     contradictions between a history and the store: violations.
//   - A durable consumer is one of package consumer. Its processes are child processes, or
//     goroutines where nothing is killed. Its handler writes an effect for each message, into
//     a table that is compared with the store. A snapshot compares effects and checkpoints
//     while the processes work.
//   - A group is a durable consumer in four to eight processes, which come and go. A freeze is
//     a time in which one of them is stopped. A poisoned stream is one whose messages fail
//     until it is healed. A takeover is that a process continues with a partition of one that
//     was killed.
//   - An operation is what an operator does to a durable consumer. Messages that he skips, or
//     that a seek passes, are left out: they need no effect. A seek deletes the effects of the
//     messages after it. An effect that a handler of before the seek writes after that is late.
//   - A proxy forwards messages of PostgreSQL's protocol between clients and the
//     server. Before and after each one it can cut the connection, reset it, or make it
//     a black hole, which forwards nothing and closes nothing. A cut point is a message
//     of an exchange at which a test does so.
//   - An outage is a time in which nothing gets through the proxy, not even on new
//     connections.
//   - A cluster is three nodes that Patroni manages: each is a PostgreSQL with its
//     Patroni. A failover is a fault of its primary, until another node has taken over.
//   - A pulse measures the longest time in which nothing happened, such as the time
//     without an acknowledgement.
//   - A floor is what a failover must achieve at least, such as the longest time without
//     an acknowledgement.
//   - The matrix is the table of docs/reliability.md: each row is a kind of fault, with
//     the tests that inject it. A tally is what the tests of a row add up to.
//   - A canary is a password or payload that must not appear in any log or error.
package chaos
