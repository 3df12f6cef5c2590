"""Texts with personal data and secrets, each between angle brackets; all of them invented."""

ALNUM = "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0dF2hJ4kL6nP8rS0uV3xY5zA7cE9fG1iK3mO5qR7tU9"

HEX = "3f9c1a7e5b2d8064" * 4

POSITIVES = {
    "email": """
        Write to <john.smith+invoices@example.co.uk>, please.
        mailto:<anna_b@mail.example.org>?subject=x
        Kontakt: <jürgen@müller-gmbh.de>.
        ('<o.neil@example.com>')
        https://x.example/?user=<a.b%40example.com>&x=1
    """,
    "phone": """
        Call me on <(415) 555-2671> tonight.
        my number is <415-555-2671>
        <+49 30 901820> is the office
        <+1 202-555-0143>
        Tel. <020 7946 0958>
        Telefon <030 901820-0> or later
        <030 12345678> or later
        <0049 30 901820>
        phone: <4155552671>
        Appelez le <06 12 34 56 78>
        <+\uff14\uff19 \uff13\uff10 \uff19\uff10\uff11\uff18\uff12\uff10> in full width
        WhatsApp <+91 98765 43210>!
    """,
    "card": """
        Visa <4111 1111 1111 1111>, exp 12/27
        card <4111-1111-1111-1111> cvv 123
        paid with <5555555555554444>.
        amex <3782 822463 10005>
        <378282246310005>
        2 x <6011 1111 1111 1117>
        2024 12 31 <4111 1111 1111 1111>
        mastercard <2223003122003222>
        unionpay <6250941006528599>
        <\u0664\u0661\u0661\u0661 \u0661\u0661\u0661\u0661 \u0661\u0661\u0661\u0661 \u0661\u0661\u0661\u0661>
        <4\u200b111 1111 1111 1111> with something unseen
        maestro <6759649826438453>
    """,  # noqa: E501 (as people write them)
    "iban": """
        Pay to <DE89 3704 0044 0532 0130 00> by Friday
        IBAN: <GB82WEST12345698765432>
        <fr14 2004 1010 0505 0001 3m02 606>, thanks
        ref AB12 <NL91ABNA0417164300>
        <NO93 8601 1117 947>
    """,
    "national_id": """
        His number is <219-09-9998>.
        SSN <219099998>
        NINO <AB123456C>
        <AB 12 34 56 C> on the form
        NHS number <943 476 5919>
        SIN <130 692 544>
        <2 95 10 99 126 111 93>
        Steuer-ID <36 574 261 809>
        <RCCMNL83S18D969H>
        DNI <54362315K>
        BSN <111222333>
        rijksregister <85.07.30-033.28>
        AHV <756.9217.0769.85>
        <880320-0016>
        <131052-308T>
        PESEL: <44051401359>
        <390.533.447-05>
        RUT <12.531.909-2>
        <BOXW310820HNERXN09>
        Aadhaar <2341 2341 2346>
        <360426199101010071>
        <971013-9019902>
    """,
    "ip": """
        from <203.0.113.45> at noon
        http://<10.12.3.4>:8080/x
        host <2001:db8:85a3::8a2e:370:7334> up
    """,
    "term": """
        about <project FALCON> and
        <Project\tFalcon>'s budget
        (<ACME>)
        we use <C++> here
        彼は<アクメ>の社員
        Frau <MÜLLER> war da
        Frau <Mu\u0308ller> auch
        <acme>_internal
    """,
    "secret": f"""
        key <sk-proj-{ALNUM[:48]}> works
        OPENAI_API_KEY=<sk-{ALNUM[:20]}T3BlbkFJ{ALNUM[20:40]}>
        <sk-ant-api03-{ALNUM[:60]}-AA>
        <AKIAIOSFODNN7EXAMPLE>
        aws_secret_access_key = "<wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY>"
        ?key=<AIza{ALNUM[:35]}>&q=1
        <ghp_{ALNUM[:36]}>
        <github_pat_{ALNUM[:22]}_{ALNUM[:59]}>
        <glpat-{ALNUM[:20]}>
        <xoxb-2345678901-2345678901-{ALNUM[:24]}>
        curl https://<hooks.slack.com/services/T0{ALNUM[1:9]}/B0{ALNUM[1:9]}/{ALNUM[:24]}>
        <sk_live_{ALNUM[:24]}>
        <hf_{ALNUM[:34]}>
        <npm_{ALNUM[:36]}>
        <SG.{ALNUM[:22]}.{ALNUM[:43]}>
        bot <123456789:AA{ALNUM[:33]}>
        Authorization: Bearer <{ALNUM[:40]}>
        <eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U>
        postgresql://ann:<s3cr3t-pw>@db.example:5432/calls
        my password is <hunter22!>
        password: <Tr0ub4dor&3>
        "client_secret": "<{HEX[:32]}>"
        api key: <{HEX[:40]}>.
        <dapi{HEX[:32]}>
        <-----BEGIN RSA PRIVATE KEY-----\\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6\\n-----END RSA PRIVATE KEY-----> end
    """,  # noqa: E501 (as such keys come)
}
