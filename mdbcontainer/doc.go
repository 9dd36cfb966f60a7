// Package mdbcontainer starts PostgreSQL with Message DB in a container, for the tests of
// programs that use [github.com/messagedb-go/messagedb/mdb]. It is a database module for
// testcontainers-go, in a Go module of its own.
//
// [Run] starts an image of PostgreSQL 14 to 18 and installs Message DB with
// [github.com/messagedb-go/messagedb/mdb/schema.Install]. It takes the options of this
// package and all options of testcontainers-go. With testcontainers.WithReuseByName, for
// example, several test binaries share one container.
//
// If the tests of a package share a container, start it in TestMain. A test that changes
// the store for others calls [Container.Snapshot] and [Container.Restore]. Tests that run
// in parallel use categories of their own, from
// [github.com/messagedb-go/messagedb/mdb/mdbtest.Category].
//
// # Without a container engine
//
// [Run] returns [ErrNoEngine] if there is no container engine. Package mdbtest does not
// need one: it creates databases on the server at MDB_TEST_DATABASE_URL, or on a server
// that it starts with the PostgreSQL programs of the machine.
//
// The command with-messagedb combines the two. It starts a container, sets
// MDB_TEST_DATABASE_URL to its URL, and runs a command:
//
//	go get -tool github.com/messagedb-go/messagedb/mdbcontainer/with-messagedb
//	go tool with-messagedb -- go test ./...
package mdbcontainer
