// The command mdb reads and writes Message DB from the terminal and in scripts.
//
//	go install github.com/messagedb-go/messagedb/cmd/mdb@latest
//
//	Usage: mdb [-d CONNECTION] COMMAND [options] [arguments]
//
//	Commands:
//	  install     install Message DB into the database
//	  notify      install, remove or inspect the NOTIFY trigger
//	  check       check the database, the role and the connection
//	  version     print the version of a stream, or of mdb and Message DB
//	  write       write messages to a stream
//	  read        print the messages of a stream or a category
//	  tail        print new messages of a stream or a category as they are written
//	  last        print the last message of a stream
//	  get         print the message with an ID
//	  export      write messages as lines of JSON, for an archive or another store
//	  import      write the messages that export has written
//	  delete      delete the old messages of a stream or a category
//	  move        move a category from one shard to another
//	  streams     count messages by stream
//	  categories  count messages by category
//	  types       count messages by type
//	  consumers   look at consumers and change them
//	  web         serve pages that show the store and its consumers to a browser
//	  proxy-sql   print the SQL of a proxy of several shards, for PL/Proxy
//	  completion  print what completes commands and options in a shell
//
//	Run "mdb help COMMAND" for the options and examples of a command. Options may come
//	before or after the arguments; "--" ends them. "mdb -version" prints the version of mdb.
//
//	-d gives the database: a URL, key=value pairs, or a database's name. Without -d, mdb
//	uses DATABASE_URL or, if that is not set, PGHOST, PGPORT, PGUSER, PGPASSWORD,
//	PGDATABASE and the other variables of psql. Other users of the machine can see the
//	arguments of a command, so keep the password in a password file or the environment.
//	-pooler is for a connection through PgBouncer.
//
//	Exit statuses:
//	  0    success, also of an interrupted tail or web
//	  1    failure
//	  2    wrong usage or input; nothing was written
//	  3    the stream is not at the version given by -expect; nothing was written
//	  4    nothing was found, or there was nothing to write
//	  5    it is unknown whether the messages were written
//	  130  interrupted
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// pgx has no fallback_application_name, by which psql and others name their sessions.
	if os.Getenv("PGAPPNAME") == "" {
		_ = os.Setenv("PGAPPNAME", "mdb")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal kills the process, even if it hangs.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}
