package schema

import (
	"io/fs"
	"strings"

	"github.com/messagedb-go/messagedb/internal/ddl"
)

// SQL returns the statements that install Message DB, for a migration tool, psql or a
// review. They are plain SQL without commands of psql, and contain the role message_store, which
// they create unless it exists. The result is the same as that of [Install].
//
// Run them in one transaction, as one migration. They fail, and change nothing, if Message DB is
// installed already, or if another role could replace what they install; see
// [ForeignObjectsError]. With psql, use psql -1 -v ON_ERROR_STOP=1, without which psql executes
// what follows a failed statement. They restore the search path of the session at the end.
//
// Functions contain semicolons, so a tool that splits scripts needs a mark: in goose, for
// example, put the text between the comments StatementBegin and StatementEnd.
func SQL() string {
	var text strings.Builder
	guard := ownerGuard("message_store")
	text.WriteString(beginText + guardOf("SELECT 'Message DB is installed already' WHERE to_regclass('message_store.messages') IS NOT NULL") + guard)
	scripts, _ := fs.Glob(files, "sql/*.sql") // the pattern is valid, and the files are embedded
	for _, name := range scripts {
		sql, _ := files.ReadFile(name)
		text.WriteString(strings.TrimSpace(string(sql)) + "\n\n")
	}
	return text.String() + guard + endText
}

// The statements must not refer to functions of other schemas. Not SET LOCAL, which has no
// effect without a transaction, and not to the end of the session, which may be the tool's own.
const (
	beginText = `SELECT pg_catalog.set_config('message_store.path_before', pg_catalog.current_setting('search_path'), false);
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

`
	endText = `SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('message_store.path_before'), false);
SELECT pg_catalog.set_config('message_store.path_before', '', false);
`
)

// NotifySQL returns the statements that install the NOTIFY trigger, as [InstallNotify] does, for
// a migration tool, psql or a review. They can be run again. They wait for the transactions
// that write to the table, and later writers wait for them: set a lock_timeout.
func NotifySQL() string {
	return guardOf(functionOfStranger) + notifySQL
}

// ConsumersSQL returns the statements that install the schema message_store_consumers, as
// [InstallConsumers] does, for a migration tool, psql or a review. Run them in one transaction, as
// [SQL] says. They fail, and change nothing, if the schema contains tables already: the statements
// do not migrate an older version.
func ConsumersSQL() string {
	guard := ownerGuard("message_store_consumers")
	return beginText + guard + consumersSQL + "\n" + consumersGrants + "\n" + guard + endText
}

func ownerGuard(schema string) string {
	return "-- The schema must belong to the role that installs, or to one that it trusts.\n" + guardOf(ddl.StrangersIn(schema))
}

// guardOf returns a statement that fails if the query finds a problem.
func guardOf(query string) string {
	return `DO $$
DECLARE
  problem text;
BEGIN
  SELECT * INTO problem FROM (` + query + `) AS found(problem) LIMIT 1;
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION '%', problem;
  END IF;
END
$$;

`
}
