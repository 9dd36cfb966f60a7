// Package mdbweb serves pages that show what a Message DB contains and how its consumers are
// doing: streams, messages with their causes and effects, new messages as they are written,
// types, throughput, health, and what consumers have parked. The command "mdb web" serves them,
// too.
//
// A [Handler] is an http.Handler, to mount in the server for administrators of a service:
//
//	pages, err := mdbweb.New(store, mdbweb.WithPrefix("/mdb"), mdbweb.WithToken(token))
//	…
//	defer pages.Close()
//	mux.Handle("/mdb/", pages)
//
// It has a pool of its own with a few connections, on which every transaction is read-only and
// every statement has a timeout, and its statements look at a limited number of rows. So the
// pages cannot change the store, and are no burden for it. With [WithWrites], they can replay and skip what
// consumers have parked, through the pool of the caller's store.
//
// Without options, the handler only answers clients on the same machine. Others need
// [WithToken], or [WithUser] if a handler of the caller's in front knows who they are. See
// docs/web.md for what is defended and how.
package mdbweb
