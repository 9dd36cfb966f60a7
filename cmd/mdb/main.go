// The command mdb looks into a Message DB and writes to it, from a terminal and in
// scripts.
//
//	go install github.com/messagedb-go/messagedb/cmd/mdb@latest
//
//	Usage: mdb [-d CONNECTION] COMMAND [options] [arguments]
//
//	Commands:
//	  install     create Message DB in the database
//	  notify      install, remove or look at the NOTIFY trigger
//	  check       tell what is wrong with the database, the role or the connection
//	  version     print the version of a stream, or those of mdb and Message DB
//	  write       write messages to a stream
//	  read        print the messages of a stream or a category
//	  tail        print the messages of a stream or a category as they are written
//	  last        print the last message of a stream
//	  streams     count the messages of each stream
//	  categories  count the messages of each category
//	  types       count the messages of each type
//
//	"mdb help COMMAND" shows a command's options and examples. Options may stand before
//	and behind arguments; "--" ends them.
//
//	The database is the one that -d names, by a URL, by key=value pairs or by its name;
//	or else DATABASE_URL; or else PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE and the
//	like, as with psql. What other users of the machine must not see is better kept in
//	a password file or the environment than given by -d.
//
//	Exit statuses:
//	  0    it is done; tail was interrupted
//	  1    it failed
//	  2    the usage or the input is wrong; nothing was written
//	  3    the stream is not at the version that -expect gives; nothing was written
//	  4    nothing was found, or there was nothing to write
//	  5    it is unknown whether the messages were written
//	  130  it was interrupted
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process in whatever it hangs.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}
