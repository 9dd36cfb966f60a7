// Package chaos proves by faults what package mdb promises: that subscriptions
// deliver every committed message at least once, in the order of positions and
// without a hole, and that an acknowledged write is in the store exactly once.
//
// It consists of tests. A world of writers and subscriptions works while a proxy
// breaks its connections, the server ends its sessions or ends itself, or the
// programs are killed. What they saw is kept in a history, and validators compare
// that with the store. Each validator is proved by a client that is broken on
// purpose.
//
//	go test ./internal/chaos                      a small size, as part of make test
//	go test ./internal/chaos -size ci             make test-faults
//	go test ./internal/chaos -size soak -run Soak -duration 1h
//	go test ./internal/chaos -seed 7              the decisions of an earlier run again
//
// The seed decides what is broken, and where by the number of messages; what else
// happens at the same time is the machine's choice.
package chaos
