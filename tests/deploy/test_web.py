"""The page that classifies pictures, in a real browser."""
import base64
import io
import itertools
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.browser import launch, open_browser, ort_web, serve
from helpers.html import parse
from helpers.paths import DATA
from nasnet_zoo import Classifier, compile_genotype, html
from nasnet_zoo.data.preprocessing import Preprocessing
from nasnet_zoo.deploy.bundle import deploy
from nasnet_zoo.deploy.config import ExportConfig
from nasnet_zoo.deploy.deployment import reference_image
from nasnet_zoo.deploy.web import ISOLATION, RUNTIMES, _measure
from nasnet_zoo.hub import write_folder

MODEL = 'nasnet_c_cifar_small'
PREPARE = html.__file__.replace('html.py', 'deploy/web_page/prepare.js')
LONG_NAME = 'a_class_with_a_name_that_is_far_too_long_for_the_screen_of_any_phone_and_has_no_spaces'


def export_to(folder, **settings):
    deploy(ExportConfig(**{**dict(source=MODEL, layout='web', out=folder), **settings}))
    return folder


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """A page that loads ONNX Runtime from the CDN."""
    pytest.importorskip('matplotlib', reason='draws the cells')
    return export_to(tmp_path_factory.mktemp('plain'))


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """A page that needs no CDN."""
    pytest.importorskip('matplotlib', reason='draws the cells')
    names = ['airplane', LONG_NAME, *map(str, range(8))]
    return export_to(tmp_path_factory.mktemp('site'), ort_web=ort_web(), class_names=names)


@pytest.fixture(scope='module')
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope='module')
def opened(browser, site):
    """The page, when the network is loaded."""
    with serve(site) as address:
        page = browser.new_page()
        page.goto(address)
        wait(page)
        yield page
        page.close()


@pytest.fixture
def page(opened):
    yield opened
    opened.set_viewport_size(dict(width=1280, height=720))
    if opened.locator('#remove').is_visible():
        opened.click('#remove')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Pictures of many kinds."""
    folder = tmp_path_factory.mktemp('pictures')
    for name, (size, mode) in {
            'small.png': ((32, 32), 'RGB'), 'large.png': ((301, 200), 'RGB'), 'tall.png': ((40, 600), 'RGB'),
            'tiny.png': ((5, 7), 'RGB'), 'grey.png': ((64, 48), 'L'), 'palette.png': ((90, 90), 'P'),
            'upright.jpg': ((50, 70), 'RGB')}.items():
        exif = Image.Exif()
        exif[0x0112] = 6 if name == 'upright.jpg' else 1  # to be turned by a right angle
        picture(size).convert(mode).save(folder / name, quality=95, exif=exif)
    return folder


def picture(size, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def wait(page, state='ready'):
    page.wait_for_selector('[data-state=ready], [data-state=failed]', timeout=120_000)
    assert page.get_attribute('#classify', 'data-state') == state, page.inner_text('#errors')


def until(page, condition, seconds=5):
    """Wait for a condition in JavaScript; Playwright's own function for it needs ``eval``, which the page forbids."""
    for _ in range(20 * seconds):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def classify(page, files):
    """Return the five most likely classes of each file, as (class, percent)."""
    page.set_input_files('#files', files)
    page.wait_for_selector('#results:not(:has([aria-busy=true]))', timeout=120_000)
    return page.evaluate('''[...document.querySelectorAll('.result')].map(card =>
        [...card.querySelectorAll('.top li')].map(row =>
            [row.children[0].textContent, parseFloat(row.children[1].textContent)]))''')


def expected(site, files):
    classifier = Classifier(site / 'model.onnx')
    return [[(classifier.class_names[k], 100 * share) for k, share in prediction.top]
            for prediction in classifier.predict(files)]


# The files

def test_files(plain):
    found = json.loads((plain / 'model.json').read_text(encoding='utf-8'))
    classifier = Classifier(plain / 'model.onnx', provider='cpu', runtime='onnxruntime')
    assert found['preprocessing'] == classifier.preprocessing.model_dump()
    assert found['file'] == _measure(plain / 'model.onnx', 'model.onnx')._asdict()
    assert found['reference']['output'] == pytest.approx(
        classifier.logits(reference_image([3, 32, 32]))[0].tolist(), rel=1e-4, abs=1e-5)
    assert not (plain / 'ort').exists()
    assert found['runtime'] == {
        name: {role: file._asdict() for role, file in row.items()} for name, row in RUNTIMES.items()}
    assert (plain / '_headers').read_text(encoding='utf-8').startswith('/*\n  Cross-Origin-Opener-Policy: same-origin')
    text = (plain / 'index.html').read_text(encoding='utf-8')
    checker = parse(text)
    assert {'nasnet_c', '10', '0.205 M', 'airplane, automobile', 'Licence'} <= {
        found.partition(', bird')[0] for found in checker.texts}
    assert 'https://' not in re.sub('<svg.*?</svg>|<meta[^>]*>', '', text, flags=re.DOTALL)
    assert len(re.findall(r'\bid="[^"]*"', text)) == len(set(re.findall(r'\bid="[^"]*"', text)))


def test_the_hashes_are_those_of_the_package():
    folder = ort_web()
    for file in (file for row in RUNTIMES.values() for file in row.values()):
        assert _measure(folder / file.path.rpartition('/')[2], file.path) == file


def test_what_is_missing(tmp_path):
    (tmp_path / 'dist').mkdir()
    with pytest.raises(ValueError, match=r'--ort-web: .*dist has no ort\.wasm\.bundle\.min\.mjs; pass the folder'):
        export_to(tmp_path / 'out', ort_web=tmp_path)
    with pytest.raises(ValueError, match='--ort-web: needs --layout web'):
        export_to(tmp_path / 'out', ort_web=tmp_path, layout='plain')
    with pytest.raises(ValueError, match='layout web: needs format to be onnx, not pt2'):
        export_to(tmp_path / 'out', format='pt2')
    four = compile_genotype('nasnet_c', num_cells=1, cell_filters=2, in_chans=4, stem='cifar', num_classes=2)
    write_folder(four.eval(), tmp_path / 'four', ['a', 'b'])
    with pytest.raises(ValueError, match='layout web: pictures have 1 or 3 channels, but the model takes 4'):
        export_to(tmp_path / 'out', source=str(tmp_path / 'four'))
    assert not (tmp_path / 'out').exists()


# What the page computes

def test_pictures_are_prepared_as_by_pillow(browser):
    page = browser.new_page()
    page.add_script_tag(path=PREPARE)
    cases = [(size, dict(interpolation=interpolation)) for size, interpolation in itertools.product(
        [(32, 32), (300, 200), (31, 600), (7, 5)], ['nearest', 'bilinear', 'bicubic', 'lanczos'])] + [
        ((97, 64), dict(crop_pct=0.875)), ((64, 120), dict(crop_pct=0.9, crop_mode='squash')),
        ((120, 50), dict(input_size=[3, 20, 45])), ((50, 91), dict(input_size=[3, 45, 20], crop_pct=0.7)),
        ((80, 80), dict(input_size=[1, 32, 32], color_order='L', mean=[0.4], std=[0.2])),
        ((40, 40), dict(color_order='BGR', layout='NHWC')), ((40, 40), dict(dtype='uint8', layout='NHWC'))]
    for size, changes in cases:
        preprocessing = Preprocessing(**{**dict(
            input_size=[3, 32, 32], mean=[0.1, 0.2, 0.3], std=[0.3, 0.2, 0.4], class_names=['a']), **changes})
        file = io.BytesIO()
        picture(size, seed=sum(size)).save(file, 'png')
        prepared, values, shape = page.evaluate('''async ([file, preprocessing]) => {
            const bytes = Uint8Array.from(atob(file), letter => letter.charCodeAt(0));
            const prepared = prepare(await createImageBitmap(new Blob([bytes])), preprocessing);
            const {values, shape} = feed(prepared, preprocessing);
            return [[...prepared], [...values], shape];
        }''', [base64.b64encode(file.getvalue()).decode(), preprocessing.model_dump()])
        expected = preprocessing.prepare(Image.open(file))
        if 'crop_mode' in changes:  # Pillow 13 does the vertical pass first, so the rounding differs
            assert np.abs(np.array(prepared) - expected.ravel().astype(int)).max() <= 1
            continue
        assert np.array_equal(prepared, expected.ravel()), (size, changes)
        expected = preprocessing.feed(expected[None])
        assert shape == list(expected.shape)
        assert np.array_equal(np.array(values, expected.dtype), expected.ravel()), (size, changes)
    page.close()


def test_the_page_classifies_as_the_command_does(page, site, pictures):
    files = sorted(pictures.iterdir())
    for got, wanted in zip(classify(page, files), expected(site, files), strict=True):
        assert [label for label, _ in got] == [label for label, _ in wanted]
        assert [share for _, share in got] == pytest.approx([share for _, share in wanted], abs=0.2)
    assert re.fullmatch(r'\w+\.\w+: .+, [\d.]+ %\. [\d.]+ milliseconds per picture, the median of 7, on the CPU '
                        r'\(WebAssembly\)\.',
                        page.inner_text('#status'))
    assert re.fullmatch(r'[\d.]+ ms, prepared in [\d.]+ ms', page.locator('.result .soft').first.inner_text())


@pytest.fixture
def software_gpu(browser, site):
    """The page on a software adapter, which is slow but has the same shaders as any other, and is not yet used."""
    flags = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan']
    with launch(browser.browser_type, *flags) as with_gpu, serve(site) as address:
        page = with_gpu.new_page()
        page.address = address
        yield page


def open_on_gpu(page):
    page.goto(page.address)
    wait(page)
    if page.locator('#device option').count() < 2:
        pytest.skip('this browser has no WebGPU')
    assert 'on the CPU' in page.inner_text('#status'), 'a software adapter is not used by itself'
    page.select_option('#device', 'webgpu')
    until(page, "document.getElementById('classify').dataset.place === 'GPU (WebGPU)'", seconds=120)


def replace_run(page, body):
    """Let the worker call another function `run` for pictures. `ran` is its own, and `device` where it runs."""
    script = Path(PREPARE).with_name('worker.js').read_text(encoding='utf-8') + """
        let calls = 0, device;
        const ran = run;
        addEventListener('message', event => { device ??= event.data.device; });
        run = async prepared => { if (calls++ === 0) { return ran(prepared); } """ + body + ' };'
    page.context.route('**/worker.js', lambda route: route.fulfill(body=script, content_type='text/javascript'))


def test_numbers_that_are_not_finite_are_refused(browser, site, pictures):
    with serve(site) as address:
        page = browser.new_page()
        replace_run(page, 'return {results: (await ran(prepared)).results.fill(NaN), runTime: 1};')
        page.goto(address)
        wait(page)
        page.set_input_files('#files', pictures / 'small.png')
        page.wait_for_selector('#errors p')
        assert page.inner_text('#errors') == 'small.png: the network returns NaN or infinite values for it.'
        page.close()


@pytest.mark.slow
def test_a_gpu_that_is_lost(software_gpu, pictures):
    replace_run(software_gpu, """
        if (device === 'webgpu') { throw Object.assign(new Error('it was lost'), {isDevice: true}); }
        return ran(prepared);""")
    open_on_gpu(software_gpu)
    assert len(classify(software_gpu, [pictures / 'small.png'])) == 1, 'the CPU has classified it'
    assert software_gpu.inner_text('#errors') == 'The network cannot run on the GPU (WebGPU): it was lost.'
    assert software_gpu.input_value('#device') == 'wasm'


@pytest.mark.slow
def test_webgpu_computes_the_same(software_gpu, site, pictures):
    open_on_gpu(software_gpu)
    files = [pictures / 'small.png', pictures / 'large.png']
    for got, wanted in zip(classify(software_gpu, files), expected(site, files), strict=True):
        assert [label for label, _ in got] == [label for label, _ in wanted]
    assert not software_gpu.inner_text('#errors')


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_labels_on_a_hundred_pictures(browser, tmp_path, capsys):
    """With one thread, and as many of them as the processor has. It prints the milliseconds per picture."""
    if not (DATA / 'cifar10-jpeg.tar.gz').exists():
        pytest.skip('the images of CIFAR-10 are not here')
    with tarfile.open(DATA / 'cifar10-jpeg.tar.gz') as archive:
        names = [name for name in archive.getnames() if re.fullmatch(r'test/\w+/000\d\.jpg', name)]
        for name in names:
            (tmp_path / name.replace('/', '_')).write_bytes(archive.extractfile(name).read())
    files = sorted(tmp_path.glob('*.jpg'))
    site = export_to(tmp_path / 'site', source='nasnet_a_cifar_small', ort_web=ort_web())
    wanted = [top[0][0] for top in expected(site, files)]
    assert len(wanted) == 100
    for headers, count in (({}, 100), (ISOLATION, 20)):
        with serve(site, **headers) as address:
            page = browser.new_page()
            page.goto(address)
            wait(page)
            assert [top[0][0] for top in classify(page, files[:count])] == wanted[:count]
            status = page.inner_text('#status')
            with capsys.disabled():
                print(f'\n{status}')
            assert float(re.search(r'([\d.]+) milliseconds per picture', status)[1]) < 60  # about a tenth of it
            page.close()


@pytest.mark.parametrize('changed, state', [(None, 'ready'), ('ort-wasm-simd-threaded.wasm', 'failed')])
def test_files_from_the_cdn_are_checked(browser, plain, changed, state):
    """The server isolates the page, too, so that there are several threads."""
    def answer(route):
        name = route.request.url.rpartition('/')[2]
        content = (folder / name).read_bytes() + (b' ' if name == changed else b'')
        route.fulfill(body=content, headers={'Access-Control-Allow-Origin': '*'})
    folder = ort_web()
    with serve(plain, **ISOLATION) as address:
        page = browser.new_page()
        page.context.route('https://cdn.jsdelivr.net/**', answer)
        page.goto(address)
        wait(page, state)
        errors = page.inner_text('#errors')
        assert bool(errors) == bool(changed) and (not changed or re.fullmatch(
            r'The network cannot run on the CPU \(WebAssembly\): https://cdn.jsdelivr.net/npm/onnxruntime-web@[\d.]+'
            r'/dist/ort-wasm-simd-threaded.wasm cannot be loaded, or it is not the expected file\.', errors))
        page.close()


# How the page is used

def test_keyboard(page, site, pictures):
    page.on('filechooser', lambda chooser: None)  # from now on, no dialog of the system opens
    page.click('h1')
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.id') == 'files'
    with page.expect_file_chooser() as chooser:
        page.keyboard.press('Enter')
    assert chooser.value.is_multiple()
    chooser.value.set_files(pictures / 'small.png')
    page.wait_for_selector('.top li')
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.textContent') == 'Use the camera'
    page.keyboard.press('Enter')
    page.wait_for_selector('dialog[open]')
    page.keyboard.press('Escape')
    assert page.locator('dialog[open]').count() == 0
    until(page, 'document.getElementById("video").srcObject === null')
    assert page.evaluate('document.activeElement.id') == 'open-camera'
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.id') == 'remove', 'the only device cannot be chosen'
    page.keyboard.press('Enter')
    assert page.locator('.result').count() == 0 and page.evaluate('document.activeElement.id') == 'files'


def test_roles_and_names(page, pictures):
    classify(page, [pictures / 'small.png'])
    for role, name in (('region', 'Classify pictures'), ('button', 'Use the camera'), ('combobox', 'Run on'),
                       ('button', 'Remove the results'), ('list', 'Results'), ('list', 'The most likely classes'),
                       ('heading', 'small.png'), ('img', 'Normal and reduction cell')):
        assert page.get_by_role(role, name=name).count() == 1, (role, name)
    assert page.get_by_label('Choose pictures').get_attribute('type') == 'file'
    assert page.locator('[role=status]').count() == page.locator('[role=alert]').count() == 1


def test_camera(page):
    page.click('#open-camera')
    page.wait_for_selector('dialog[open]')
    page.click('#take')
    page.wait_for_selector('.top li')
    assert page.locator('.result h3').inner_text().startswith('Camera, ')
    assert page.locator('.top li').count() == 5


DROP = """([name, text]) => {
    const data = new DataTransfer();
    name ? data.items.add(new File([text], name)) : data.setData('text/plain', text);
    dispatchEvent(new %s);
}"""


@pytest.mark.parametrize('event', [
    "DragEvent('drop', {dataTransfer: data, cancelable: true})", "ClipboardEvent('paste', {clipboardData: data})"])
def test_what_is_not_a_picture(page, event):
    page.evaluate(DROP % event, ['notes.txt', 'no picture'])
    page.wait_for_selector('#errors p')
    assert page.inner_text('#errors') == 'notes.txt: it is not a picture that this browser can read.'
    assert page.locator('.result').count() == 0 and page.inner_text('#status').startswith('Ready, on the CPU')
    page.evaluate(DROP % event, ['', 'some words'])
    assert re.search('is not a file|no picture', page.inner_text('#errors')) and page.locator('#errors p').count() == 1


def test_errors_leave_the_other_pictures(page, tmp_path, pictures):
    picture((1300, 20)).save(tmp_path / 'narrow.png')
    (tmp_path / 'cut.png').write_bytes((pictures / 'large.png').read_bytes()[:60])
    assert len(classify(page, [tmp_path / 'narrow.png', pictures / 'small.png', tmp_path / 'cut.png'])) == 1
    assert page.inner_text('#errors').split('\n\n') == [
        'narrow.png: 1300 x 20 pixels are too long and narrow.',
        'cut.png: it is not a picture that this browser can read.']


@pytest.mark.parametrize('broken, message', [
    ('model.json', 'model.json cannot be loaded'),
    ('model.onnx', 'model.onnx cannot be loaded, or it is not the expected file'),
    ('reference', r'its results differ from those of ONNX Runtime by [\d.]+ \(relative\)')])
def test_broken_folders(browser, site, broken, message):
    def answer(route):
        response = route.fetch()
        text = json.loads(response.body())
        text['reference']['output'][0] += 10
        route.fulfill(response=response, body=json.dumps(text) if broken == 'reference' else '{')
    with serve(site) as address:
        page = browser.new_page()
        page.route('**/model.json' if broken == 'reference' else f'**/{broken}', answer if broken == 'reference' else (
            lambda route: route.fulfill(body='damaged')))
        page.goto(address)
        page.wait_for_selector('#errors p', timeout=60_000)
        assert re.search(message, page.inner_text('#errors'))
        assert page.inner_text('#status') == 'No picture can be classified. Reload the page to try again.'
        page.close()


def test_a_page_that_was_replaced(browser, site, tmp_path):
    """The browser may keep the old files for an hour, as servers tell it."""
    folder = shutil.copytree(site, tmp_path / 'site')
    with serve(folder, **{'Cache-Control': 'max-age=3600'}) as address:
        page = browser.new_page()
        page.goto(address)
        wait(page)
        shutil.rmtree(folder)
        export_to(folder, ort_web=ort_web(), softmax=True)
        page.reload()
        wait(page)
        page.close()


def test_a_page_that_was_opened_as_a_file(browser, plain):
    page = browser.new_page()
    page.goto((plain / 'index.html').as_uri())
    assert 'python -m http.server' in page.inner_text('#status')
    page.close()


# How the page looks

@pytest.mark.parametrize('width', [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(page, pictures, width):
    classify(page, [pictures / 'small.png', pictures / 'tall.png'])
    page.set_viewport_size(dict(width=width, height=800))
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    box = page.locator('.top li').first.bounding_box()
    assert box['x'] + box['width'] <= width
    for selector in ('button', 'select', '.drop'):
        assert all(item.bounding_box()['height'] >= 44 for item in page.locator(f'{selector}:visible').all())


CONTRASTS = """() => {
    const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const paint = colours => {
        colours.forEach(colour => { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); });
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const luminance = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const found = {};
    for (const element of document.querySelectorAll('h1, h2, h3, p, dt, dd, strong, span, button, label, summary')) {
        const chain = [];
        for (let node = element; node; node = node.parentElement) {
            chain.unshift(getComputedStyle(node).backgroundColor);
        }
        const back = paint(['white', ...chain]), ink = paint(['white', ...chain, getComputedStyle(element).color]);
        const [low, high] = [luminance(back), luminance(ink)].sort((a, b) => a - b);
        found[element.tagName + '.' + element.className] = (high + 0.05) / (low + 0.05);
    }
    return [luminance(paint([getComputedStyle(document.body).backgroundColor])), found];
}"""


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_colours(page, pictures, scheme):
    page.emulate_media(color_scheme=scheme)
    page.evaluate(DROP % "ClipboardEvent('paste', {clipboardData: data})", ['x.txt', 'x'])
    page.wait_for_selector('#errors p')
    classify(page, [pictures / 'small.png'])
    back, contrasts = page.evaluate(CONTRASTS)
    page.emulate_media(color_scheme='no-preference')
    assert back < 0.02 if scheme == 'dark' else back > 0.8
    assert not {name: ratio for name, ratio in contrasts.items() if ratio < 4.5}
