// Package mdbcontainer starts Message DB in a container, for the tests of programs
// that use package mdb. It is a database module for testcontainers-go, and a Go
// module of its own.
//
// [Run] starts any image of PostgreSQL 14 to 18 and installs Message DB in it, as
// package schema does. All options of testcontainers-go work as well as those here:
// testcontainers.WithReuseByName, for one, lets several test binaries use one
// container.
//
// A package whose tests share a container starts it in TestMain and, where a test
// needs the store as it was, goes back to it by [Container.Snapshot] and
// [Container.Restore]. Tests that run in parallel keep apart by categories of their
// own, which package mdbtest makes.
//
// # Without a container engine
//
// [Run] fails with [ErrNoEngine] where no engine answers. Package mdbtest needs none:
// its stores are in databases of the server at MDB_TEST_DATABASE_URL, or of one that
// it starts from the programs on the machine.
//
// The command with-messagedb joins the two. It starts a container, sets
// MDB_TEST_DATABASE_URL to its address, and runs a command:
//
//	go get -tool github.com/messagedb-go/messagedb/mdbcontainer/with-messagedb
//	go tool with-messagedb -- go test ./...
package mdbcontainer
