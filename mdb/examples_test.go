package mdb_test

import (
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestExamples checks the output of the examples in the documentation. They need a server,
// so go test does not run them itself.
func TestExamples(t *testing.T) {
	url := testdb.New(t)
	// With it, Message DB's own functions work with any search path.
	if _, err := schema.PinSearchPath(t.Context(), newPool(t, url)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DATABASE_URL", url)
	for name, example := range map[string]struct {
		run  func()
		want string
	}{
		"Example":                     {Example, "written to position 0 of account-123\n0: Deposited {\"amount\": 10}\n"},
		"Connect":                     {ExampleConnect, "1.3.0 <nil>\n"},
		"New":                         {ExampleNew, "problems: <nil>\n"},
		"Configure_storeFirst":        {ExampleConfigure_storeFirst, "problems: <nil>\n"},
		"BehindPooler":                {ExampleBehindPooler, "1.3.0 <nil>\n"},
		"Store_WriteMessage_conflict": {ExampleStore_WriteMessage_conflict, "reserved: true\ntoo late: mdb: stream seat-1a is at version 0, expected no stream\n"},
		"IsTransient":                 {ExampleIsTransient, "-1 <nil>\n"},
		"ErrUnavailable":              {ExampleErrUnavailable, "503\n"},
		"Metadata_Follow":             {ExampleMetadata_Follow, "Reserved, caused by errand-7/0, of acme\n"},
		"WithHooks": {ExampleWithHooks, "ann writes 1 message to contract-7, error: <nil>\n" +
			"ann writes 1 message to contract-7, error: mdb: stream contract-7 is at version 0, expected no stream\n" +
			"Signed {\"actor\": \"ann\"} <nil>\n"},
		"HookHandle":                   {ExampleHookHandle, "ended by the handler: true\n"},
		"Idempotent":                   {ExampleIdempotent, "position 0, already written: false\nposition 0, already written: true\n"},
		"ProposedMessage_bytes":        {ExampleProposedMessage_bytes, "image/gif GIF89a <nil>\n"},
		"ProposedMessage_copy":         {ExampleProposedMessage_copy, "0 false <nil>\n0 true <nil>\n"},
		"Store_WriteEach":              {ExampleStore_WriteEach, "0: at position 0\n1: mdb: stream sensor-2 is at version -1, expected 7\n2: skipped, because write 1 failed\n3: at position 0\n"},
		"Store_Atomically":             {ExampleStore_Atomically, "<nil> 0\n"},
		"Store_WithTx":                 {ExampleStore_WithTx, "registered: true\nregistered again: false\nversion: 0 <nil>\n"},
		"Store_WithTx_databaseSQL":     {ExampleStore_WithTx_databaseSQL, "committed: true\nversion: 0 <nil>\n"},
		"Tx_Tx":                        {ExampleTx_Tx, "sold: true\nsold: false\nversion: 0 <nil>\n"},
		"InSavepoint":                  {ExampleInSavepoint, "cart-1 already requested: false\nanother program requests the payment of cart-2\ncart-1 already requested: true\nanother program requests the payment of cart-2\n"},
		"Store_AllMessages":            {ExampleStore_AllMessages, "train-1\nplatform-1\ntrain-2\n"},
		"Store_GetAllMessages":         {ExampleStore_GetAllMessages, "loan-1 Terminated\ndeposit-1 Terminated\n"},
		"Store_GetLastCategoryMessage": {ExampleStore_GetLastCategoryMessage, "ferry-2 Departed\n"},
		"Store_SubscribeToAll":         {ExampleStore_SubscribeToAll, "Unlocked locker-1\nUnlocked vault-1\nUnlocked locker-2\nended: shutdown\n"},
		"TimeMargin":                   {ExampleTimeMargin, "Braked\n"},
		"Backwards":                    {ExampleBackwards, "Landed Took off \n"},
		"Since":                        {ExampleSince, "Parked\n"},
		"Store_GetMessage":             {ExampleStore_GetMessage, "Shipped crate-1 true\n"},
		"Store_CategoryMessages":       {ExampleStore_CategoryMessages, "map[visit-0:3 visit-1:2]\n"},
		"Store_SubscribeToCategory":    {ExampleStore_SubscribeToCategory, "room-1 is booked for 3 nights\nroom-2 is booked for 3 nights\nended: shutdown\n"},
		"gomdb":                        {ExampleStore_SubscribeToCategory_gomdb, "ended\n"},
		"Store_SubscribeToStream":      {ExampleStore_SubscribeToStream, "Started\nFinished\ntrue\n"},
		"OnLive":                       {ExampleOnLive, "live: true map[page-home:3]\nended: shutdown\n"},
		"CategoryCheckpoint_After":     {ExampleCategoryCheckpoint_After, "invoice for basket-7\nended: shutdown\n"},
		"OnProgress":                   {ExampleOnProgress, "ship order-1\nended: shutdown\nship order-2\nended: shutdown\n"},
		"OnAllProgress":                {ExampleOnAllProgress, "Ordered ride-1\nPaid fare-1\nended: shutdown\nOrdered ride-2\nended: shutdown\n"},
		"OnFork":                       {ExampleOnFork, "undo the sale of ticket-2\nended: shutdown\n"},
		"OnUnreadable":                 {ExampleOnUnreadable, "unreadable: import-1 0 Imported\nimport-1 1 Imported\nended: shutdown\n"},
		"AsConsumerGroup":              {ExampleAsConsumerGroup, "a Lost parcel\n"},
		"WithWorkers":                  {ExampleWithWorkers, "map[ann:[ann+1 ann+2] bob:[bob+1]] shutdown\n"},
		"WithNotify":                   {ExampleWithNotify, "received Opened\nended: shutdown\n"},
		"Store_NotifyStats":            {ExampleStore_NotifyStats, "categories: 1, reads: 1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name == "OnUnreadable" {
				t.Skip("the server takes seconds to measure the text of 1 GiB")
			}
			if got := testdb.Output(t, example.run); got != example.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, example.want)
			}
		})
	}
}
