import pytest, datetime
from django_tenants.utils import schema_context
from django.utils import timezone
from core.security.actor import SYSTEM, use_actor
pytestmark = pytest.mark.django_db(transaction=True)
def test_shots(live_site, user_with):
    from inference.models import ModelVersion
    from inference.upstreams.models import Upstream
    from inference.gateway.models import Batch, BatchItem, GatewayFile
    import uuid
    from tests.conftest import PASSWORD
    user_with("admin", "engineer", email="zed@alpha.example", name="Zed")
    m = ModelVersion.objects.create(name="SmolLM2-135M-Instruct", digest="sha256:"+"ab"*32)
    for i,(n,h,e) in enumerate([("vLLM in rack 3","healthy",True),("Spare llama.cpp","failing",True),("Old box","unknown",False)]):
        u=Upstream.objects.create(name=n, model_version=m, url=f"https://engine{i}.example:8000/v1", remote_model="smol", health=h, enabled=e, health_detail="It answers and lists the model." if h=="healthy" else "The engine refuses connections.", health_ms=12.3, checked_at=timezone.now(), created_by_label="Zed")
        if i==0: first=u
    import redis, orjson
    from django.conf import settings
    with redis.Redis.from_url(settings.CACHE_URL) as c:
        c.set("signoff:upstreams:alpha:x", orjson.dumps({str(first.pk):{"in_flight":7,"waiting":2,"breaker":"closed","answered":1200,"failed":3,"aborted":4,"first_ms":41.2,"last_error":""}}), ex=300)
    f=GatewayFile.objects.create(key_id="k1",purpose="batch_output",filename="x",data_key=uuid.uuid4(),expires_at=timezone.now()+datetime.timedelta(days=1))
    mk=lambda **k: Batch.objects.create(key_id="k1abcdef",endpoint="/v1/chat/completions",input_file_public_id="file-1",expires_at=timezone.now()+datetime.timedelta(days=1),**k)
    a=mk(status="in_progress",total=500,completed=180,failed=3,tokens_in=81234,tokens_out=20311,enqueued_at=timezone.now(),lease_expires_at=timezone.now()+datetime.timedelta(hours=1),errors=[{"code":"invalid_json_line","message":"The line is not valid JSON.","param":None,"line":4},{"code":"duplicate_custom_id","message":"An earlier line has the same custom_id.","param":"custom_id","line":9}])
    for i in range(3): BatchItem.objects.create(batch=a,line=i+1,public_id=f"r{i}",status=400 if i else 0,code="bad_value" if i else "invalid_json_line",data_key=uuid.uuid4(),sealed=b"")
    d=mk(status="completed",total=500,completed=500,output_file=f,ended_at=timezone.now())
    mk(status="failed",errors=[{"code":"empty_file","message":"The file holds no requests.","param":None,"line":None}])
    from playwright.sync_api import sync_playwright
    import os
    paths=["/gateway/upstreams/",f"/gateway/upstreams/{first.pk}/","/gateway/upstreams/new/","/gateway/batches/",f"/gateway/batches/{a.public_id}/",f"/gateway/batches/{d.public_id}/"]
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]="1"
    with sync_playwright() as p:
        b=p.chromium.launch(executable_path="/usr/bin/chromium",args="--no-sandbox --disable-gpu --disable-background-networking".split())
        for w,scheme in ((1440,"light"),(1440,"dark"),(390,"light"),(390,"dark")):
            c=b.new_context(viewport={"width":w,"height":900},color_scheme=scheme); pg=c.new_page(); msgs=[]
            pg.on("console",lambda m: msgs.append(m.text) if m.type in("error","warning") else None)
            pg.goto(live_site.url("/sign-in/"),timeout=90000)
            pg.locator("input[type=email], input[name=username], input[name=email]").first.fill("zed@alpha.example")
            pg.locator("input[type=password]").first.fill(PASSWORD)
            pg.locator("main button[type=submit], main button").first.click(); pg.wait_for_url(lambda u: "sign-in" not in u, timeout=90000)
            for i,path in enumerate(paths):
                pg.goto(live_site.url(path),timeout=90000); pg.wait_for_timeout(300)
                pg.screenshot(path=f"/tmp/w/shots/up_{i}_{w}_{scheme}.png",full_page=True)
                print(w,scheme,path,pg.title(),"overflow",pg.evaluate("document.documentElement.scrollWidth-document.documentElement.clientWidth"),msgs[:2]); msgs.clear()
            c.close()
        b.close()
